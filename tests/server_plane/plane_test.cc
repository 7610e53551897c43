#include "server/plane/plane.h"

#include <png.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/plane/png.h"

namespace eigsvc {
namespace {

constexpr int kMiddle = 280;
constexpr double kScale = 561 / 2.0 / 1.15;  // pixels a unit while nothing is much larger than 1

v1::SiteSpectrum SiteOf(double max_log) {
  v1::SiteSpectrum site;
  site.mutable_summary()->set_count(1);
  site.mutable_summary()->set_max(max_log);
  return site;
}

// The bin and the cell of a value, from the definitions in spectrum.proto.
int BinOf(double log_magnitude) {
  const double size = std::abs(log_magnitude);
  const int octave = static_cast<int>(std::floor(std::log2(size)));
  return (octave + 30) * 32 + static_cast<int>(std::floor((size / std::exp2(octave) - 1) * 32));
}
void AddReal(v1::SiteSpectrum& site, double modulus, uint64_t count) {
  v1::SpectrumBins& bins = *site.mutable_bins();
  (modulus < 1 ? bins.mutable_below_1_index() : bins.mutable_beyond_1_index())->Add(BinOf(std::log(modulus)));
  (modulus < 1 ? bins.mutable_below_1_count() : bins.mutable_beyond_1_count())->Add(count);
}
void AddComplex(v1::SiteSpectrum& site, double modulus, double phase, uint64_t count) {
  AddReal(site, modulus, count);
  const int octave = static_cast<int>(std::floor(std::log2(std::abs(std::log(modulus))))) + 30;
  const int bin = static_cast<int>(std::floor((phase + std::numbers::pi) / (2 * std::numbers::pi) * 64)) % 64;
  site.mutable_bins()->add_phase_index(((modulus > 1) * 42 + octave) * 64 + bin);
  site.mutable_bins()->add_phase_count(count);
}

uint8_t At(const Picture& picture, double x, double y) {
  const int column = static_cast<int>(std::lround(kMiddle + x * kScale));
  const int row = static_cast<int>(std::lround(kMiddle - y * kScale));
  return picture.levels[row * picture.width + column];
}
uint8_t AtPolar(const Picture& picture, double modulus, double phase) {
  return At(picture, modulus * std::cos(phase), modulus * std::sin(phase));
}
bool IsDensity(uint8_t level) { return level >= 1 && level <= Picture::kDensest; }
int Drawn(const Picture& picture) {
  return static_cast<int>(std::count_if(picture.levels.begin(), picture.levels.end(), IsDensity));
}

TEST(PlaneTest, NothingIsTheCircleAndTheAxes) {
  const v1::SiteSpectrum site = SiteOf(-1);
  const Picture picture = DrawPlane({&site}, PlaneView::kPlane);
  EXPECT_EQ(picture.width, 561);
  EXPECT_EQ(picture.levels.size(), 561u * 561);
  EXPECT_EQ(Drawn(picture), 0);
  EXPECT_EQ(At(picture, 1, 0), Picture::kCircle);
  EXPECT_EQ(At(picture, 0, 1), Picture::kCircle);
  EXPECT_EQ(At(picture, 0.5, 0), Picture::kAxis);
  EXPECT_EQ(At(picture, 0, -0.5), Picture::kAxis);
  EXPECT_EQ(At(picture, 0.5, 0.5), 0);
}

TEST(PlaneTest, ComplexEigenvaluesFillTheirCellAlone) {
  v1::SiteSpectrum site = SiteOf(std::log(0.7));
  AddComplex(site, 0.7, 2.0, 5);  // |log| = 0.357: the octave from 1/4 to 1/2, |λ| from 0.607 to 0.779
  const Picture picture = DrawPlane({&site}, PlaneView::kPlane);
  EXPECT_EQ(AtPolar(picture, 0.65, 2.0), Picture::kDensest);
  EXPECT_EQ(AtPolar(picture, 0.75, 2.0), Picture::kDensest);
  EXPECT_EQ(AtPolar(picture, 0.58, 2.0), 0);
  EXPECT_EQ(AtPolar(picture, 0.81, 2.0), 0);
  EXPECT_EQ(AtPolar(picture, 0.7, -2.0), 0);
  const double area = std::numbers::pi / 64 * (std::exp(-0.5) - std::exp(-1)) * kScale * kScale;
  EXPECT_NEAR(Drawn(picture), area, 0.05 * area);
}

TEST(PlaneTest, ConjugatePairsShowBoth) {
  v1::SiteSpectrum site = SiteOf(std::log(0.7));
  AddComplex(site, 0.7, 2.0, 6);
  site.set_conjugate_pairs(true);
  const Picture picture = DrawPlane({&site}, PlaneView::kPlane);
  EXPECT_EQ(AtPolar(picture, 0.7, 2.0), Picture::kDensest);
  EXPECT_EQ(AtPolar(picture, 0.7, -2.0), Picture::kDensest);
}

TEST(PlaneTest, LevelsAreLogarithmicInTheDensity) {
  v1::SiteSpectrum site = SiteOf(std::log(0.7));
  AddComplex(site, 0.7, 2.0, 1);
  AddComplex(site, 0.7, 1.0, 10);
  AddComplex(site, 0.7, -1.0, 100);
  const Picture picture = DrawPlane({&site}, PlaneView::kPlane);
  EXPECT_EQ(AtPolar(picture, 0.7, 2.0), 1);
  EXPECT_EQ(AtPolar(picture, 0.7, 1.0), 127);
  EXPECT_EQ(AtPolar(picture, 0.7, -1.0), 253);
}

TEST(PlaneTest, SlowEigenvaluesAreARingInsideTheCircle) {
  v1::SiteSpectrum site = SiteOf(-1e-6);
  AddComplex(site, 1 - 1e-6, 2.0, 5);
  AddComplex(site, 1 - 1e-3, 2.0, 5);
  const Picture picture = DrawPlane({&site}, PlaneView::kPlane);
  EXPECT_TRUE(IsDensity(AtPolar(picture, 0.992, 2.0)));
  EXPECT_FALSE(IsDensity(AtPolar(picture, 1.008, 2.0)));
  EXPECT_FALSE(IsDensity(AtPolar(picture, 0.97, 2.0)));
}

TEST(PlaneTest, PositiveRealOnesAreABarOnTheAxis) {
  v1::SiteSpectrum site = SiteOf(std::log(0.9));
  AddReal(site, 0.3, 1);
  AddReal(site, 0.9, 1000);
  const Picture picture = DrawPlane({&site}, PlaneView::kPlane);
  for (const int row : {-2, 0, 2}) {
    EXPECT_EQ(At(picture, 0.9, row / kScale), Picture::kDensest);
    EXPECT_TRUE(IsDensity(At(picture, 0.3, row / kScale)));
  }
  EXPECT_LT(At(picture, 0.3, 0), Picture::kDensest);
  EXPECT_EQ(At(picture, 0.9, 4 / kScale), 0);
  EXPECT_EQ(At(picture, 0.6, 0), Picture::kAxis);
  EXPECT_EQ(At(picture, -0.9, 0), Picture::kAxis);
}

TEST(PlaneTest, PositiveRealOnesAreWhatTheGridLeavesOfAnOctave) {
  v1::SiteSpectrum site = SiteOf(std::log(0.7));
  AddComplex(site, 0.7, 2.0, 5);
  EXPECT_FALSE(IsDensity(At(DrawPlane({&site}, PlaneView::kPlane), 0.7, 0)));
  AddReal(site, 0.65, 5);
  EXPECT_TRUE(IsDensity(At(DrawPlane({&site}, PlaneView::kPlane), 0.65, 0)));
}

TEST(PlaneTest, LargeOnesWidenThePicture) {
  v1::SiteSpectrum site = SiteOf(std::log(3));
  AddReal(site, 3, 1);
  const Picture picture = DrawPlane({&site}, PlaneView::kPlane);
  const double scale = 561 / 2.0 / (3 * 1.05);
  EXPECT_TRUE(IsDensity(picture.levels[kMiddle * 561 + kMiddle + static_cast<int>(3 * scale)]));
  EXPECT_EQ(picture.levels[kMiddle * 561 + kMiddle + static_cast<int>(std::lround(scale))], Picture::kCircle);
  site = SiteOf(700);  // e^700 is beyond any picture
  AddReal(site, std::exp(700), 1);
  EXPECT_EQ(Drawn(DrawPlane({&site}, PlaneView::kPlane)), 0);
  EXPECT_GT(Drawn(DrawPlane({&site}, PlaneView::kUnrolled)), 0);
}

TEST(PlaneTest, ZerosAreTheMiddle) {
  v1::SiteSpectrum site = SiteOf(-INFINITY);
  site.mutable_bins()->set_zero_count(7);
  const Picture plane = DrawPlane({&site}, PlaneView::kPlane);
  EXPECT_EQ(At(plane, 0, 0), Picture::kDensest);
  EXPECT_EQ(At(plane, 0.03, 0.03), 0);
  const Picture unrolled = DrawPlane({&site}, PlaneView::kUnrolled);
  EXPECT_EQ(Drawn(unrolled), 512 * 6);
  EXPECT_EQ(unrolled.levels[511 * 512], Picture::kDensest);
}

TEST(PlaneTest, UnrolledRowsAreOctavesOfTheTimescale) {
  v1::SiteSpectrum site = SiteOf(0.1);
  const auto count_at = [](const Picture& picture, int row_from_below, double phase) {
    const int y = 511 - row_from_below * 6 - 3 - (row_from_below > 42 ? 2 : 0);
    const int x = static_cast<int>((phase / std::numbers::pi + 1) * 256);
    return picture.levels[y * picture.width + x];
  };
  AddComplex(site, std::exp(-1 / 100.0), 2.0, 5);  // |log| from 2^-7: octave 23
  AddReal(site, std::exp(-1 / 100.0), 5);
  site.mutable_bins()->set_one_count(5);
  AddReal(site, std::exp(1.5), 5);  // |log| from 1: octave 30 beyond
  const Picture picture = DrawPlane({&site}, PlaneView::kUnrolled);
  EXPECT_EQ(picture.height, 512);
  EXPECT_EQ(count_at(picture, 42 - 23, 2.0), Picture::kDensest);
  EXPECT_EQ(count_at(picture, 42 - 23, 0.01), Picture::kDensest);
  EXPECT_EQ(count_at(picture, 42, 0.01), Picture::kDensest);
  EXPECT_EQ(count_at(picture, 43 + 30, 0.01), Picture::kDensest);
  EXPECT_EQ(Drawn(picture), 4 * 8 * 6);
}

TEST(PngTest, AReaderFindsTheLevels) {
  Picture picture{3, 2, {0, 1, 128, 253, 254, 255}};
  const std::string file = EncodePng(picture);
  // By libpng's classic interface, which shows the bytes as they are in the file.
  png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, nullptr, nullptr, nullptr);
  png_infop info = png_create_info_struct(png);
  std::pair<const std::string*, size_t> source(&file, 0);
  png_set_read_fn(png, &source, [](png_structp reader, png_bytep to, size_t count) {
    auto* from = static_cast<std::pair<const std::string*, size_t>*>(png_get_io_ptr(reader));
    std::copy_n(from->first->begin() + static_cast<ptrdiff_t>(from->second), count, to);
    from->second += count;
  });
  png_read_png(png, info, PNG_TRANSFORM_IDENTITY, nullptr);
  EXPECT_EQ(png_get_image_width(png, info), 3u);
  EXPECT_EQ(png_get_color_type(png, info), PNG_COLOR_TYPE_PALETTE);
  png_bytepp rows = png_get_rows(png, info);
  EXPECT_EQ(std::vector<uint8_t>(rows[0], rows[0] + 3), (std::vector<uint8_t>{0, 1, 128}));
  EXPECT_EQ(std::vector<uint8_t>(rows[1], rows[1] + 3), (std::vector<uint8_t>{253, 254, 255}));
  png_destroy_read_struct(&png, &info, nullptr);
}

}  // namespace
}  // namespace eigsvc
