// libpng's simplified interface reports errors by value; the classic one would leave by longjmp.
#include "server/plane/png.h"

#include <png.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

namespace eigsvc {
namespace {

struct Colour {
  uint8_t red, green, blue;
};

// Anchors of a perceptually even map from dark violet to yellow, after matplotlib's viridis.
constexpr Colour kAnchors[] = {{68, 1, 84}, {59, 82, 139}, {33, 145, 140}, {94, 201, 98}, {253, 231, 37}};
constexpr Colour kNothing = {24, 27, 31}, kAxisColour = {70, 74, 82}, kCircleColour = {190, 196, 205};

std::array<Colour, 256> Palette() {
  std::array<Colour, 256> palette;
  constexpr int kSteps = std::size(kAnchors) - 1;
  for (int level = 1; level <= Picture::kDensest; ++level) {
    const double position = kSteps * (level - 1) / static_cast<double>(Picture::kDensest - 1);
    const int from = std::min(static_cast<int>(position), kSteps - 1);
    const auto mix = [&](uint8_t Colour::*part) {
      return static_cast<uint8_t>(std::lround(
          kAnchors[from].*part + (position - from) * (kAnchors[from + 1].*part - kAnchors[from].*part)));
    };
    palette[level] = {mix(&Colour::red), mix(&Colour::green), mix(&Colour::blue)};
  }
  palette[0] = kNothing;
  palette[Picture::kAxis] = kAxisColour;
  palette[Picture::kCircle] = kCircleColour;
  return palette;
}

}  // namespace

std::string EncodePng(const Picture& picture) {
  static const std::array<Colour, 256> palette = Palette();
  png_image image = {};
  image.version = PNG_IMAGE_VERSION;
  image.width = static_cast<png_uint_32>(picture.width);
  image.height = static_cast<png_uint_32>(picture.height);
  image.format = PNG_FORMAT_RGB_COLORMAP;
  image.colormap_entries = 256;
  std::string file(PNG_IMAGE_PNG_SIZE_MAX(image), '\0');
  png_alloc_size_t size = file.size();
  if (png_image_write_to_memory(&image, file.data(), &size, 0, picture.levels.data(), 0, palette.data()) ==
      0) {
    size = 0;
  }
  file.resize(size);
  return file;
}

}  // namespace eigsvc
