#include "tests/floors/floors.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace eigsvc::testing {
namespace {

using Rooms = std::set<std::string, std::less<>>;

// The arrows: a room and the rooms whose headers it may include. One line a room, bottom floor first.
const std::map<std::string, Rooms, std::less<>>& Arrows() {
  static const Rooms matter = {"models/base", "models/archive", "models/tensor", "models/kernels",
                               "models/transition"};
  static const auto with = [](Rooms rooms, const Rooms& more) {
    rooms.insert(more.begin(), more.end());
    return rooms;
  };
  static const Rooms models =
      with(matter, {"models/spectrum", "models/layers", "models/mixers", "models/zoo", "models/tasks"});
  static const auto* arrows = new std::map<std::string, Rooms, std::less<>>{
      // ground
      {"models/base", {}},
      {"models/spectrum", {"models/base"}},
      {"models/archive", {"models/base"}},
      {"models/recipes", {"models/base"}},
      // matter
      {"models/kernels", {"models/base", "models/spectrum"}},
      {"models/tensor", {"models/base", "models/archive"}},
      {"models/transition", {"models/base", "models/tensor", "models/kernels"}},
      {"models/layers", matter},
      {"models/mixers", with(matter, {"models/layers"})},
      // shelves: never each other
      {"models/zoo", with(matter, {"models/layers", "models/mixers"})},
      {"models/tasks", {"models/base", "models/archive"}},
      // study
      {"models/analysis", models},
      {"models/training", with(models, {"models/analysis"})},
      {"server/inspection", {"models/base", "models/archive", "models/spectrum"}},
      {"server/reader", {"models/base", "models/archive"}},
      {"server/worker",
       with(models, {"models/analysis", "models/training", "server/inspection", "server/reader"})},
      // house: rpc and http both call jobs, never each other
      {"server/config", {"models/base"}},
      {"server/metrics", {"models/base"}},
      {"server/store", {"models/base"}},
      {"server/workers", {"models/base", "server/metrics", "server/config"}},
      {"server/jobs", {"models/base", "server/workers", "server/store", "server/metrics", "server/config"}},
      {"server/rpc",
       {"models/base", "server/jobs", "server/workers", "server/store", "server/metrics", "server/config"}},
      {"server/plane", {"models/base", "server/jobs"}},
      {"server/http", {"models/base", "server/jobs", "server/metrics", "server/config"}},
      {"server",
       {"models/base", "server/rpc", "server/http", "server/plane", "server/jobs", "server/workers",
        "server/store", "server/metrics", "server/config"}},
      // doors: talk only through proto; `inspect` works offline on the ground floor
      {"client/cli",
       {"models/base", "models/spectrum", "models/archive", "models/recipes", "server/inspection"}},
  };
  return *arrows;
}

const Rooms& TorchRooms() {
  static const auto* rooms =
      new Rooms{"models/tensor", "models/transition", "models/layers",   "models/mixers",
                "models/zoo",    "models/analysis",   "models/training", "server/worker"};
  return *rooms;
}

const Rooms& ServiceRooms() {
  static const auto* rooms =
      new Rooms{"server/rpc", "server/workers", "server/worker", "server", "client/cli"};
  return *rooms;
}

// Each of these parses a large part of LibTorch and costs ten seconds a file.
constexpr absl::string_view kWholeLibraries[] = {
    "torch/torch.h",     "torch/script.h", "torch/nn.h",       "torch/all.h",   "torch/types.h",
    "torch/extension.h", "ATen/ATen.h",    "ATen/Functions.h", "ATen/Tensor.h",
};

// "models/zoo/gpt2.cc" -> "models/zoo"; "tests/zoo/gpt2_test.cc" -> "tests/zoo"; "server/main.cc" ->
// "server".
std::string RoomOf(absl::string_view path) {
  const std::vector<absl::string_view> parts = absl::StrSplit(path, '/');
  if (parts.size() < 3) return std::string(parts[0]);
  return absl::StrCat(parts[0], "/", parts[1]);
}

bool StartsWithAny(absl::string_view text, std::initializer_list<absl::string_view> prefixes) {
  return std::any_of(prefixes.begin(), prefixes.end(),
                     [&](absl::string_view p) { return absl::StartsWith(text, p); });
}

// The header of an #include line, without its delimiters.
std::optional<absl::string_view> IncludedHeader(absl::string_view line) {
  line = absl::StripLeadingAsciiWhitespace(line);
  if (!absl::ConsumePrefix(&line, "#")) return std::nullopt;
  line = absl::StripLeadingAsciiWhitespace(line);
  if (!absl::ConsumePrefix(&line, "include")) return std::nullopt;
  line = absl::StripLeadingAsciiWhitespace(line);
  if (!absl::ConsumePrefix(&line, "\"") && !absl::ConsumePrefix(&line, "<")) return std::nullopt;
  return line.substr(0, line.find_first_of("\">"));
}

// Why a file of `room` must not include `header`; empty when it may.
std::string BrokenRule(absl::string_view path, const std::string& room, absl::string_view header) {
  const bool test = absl::StartsWith(path, "tests/");
  const bool cuda_file = absl::EndsWith(path, ".cu") || absl::EndsWith(path, ".cuh");

  if (std::find(std::begin(kWholeLibraries), std::end(kWholeLibraries), header) !=
      std::end(kWholeLibraries)) {
    return "whole-library LibTorch headers are banned; include ATen/core/Tensor.h and the operators' headers";
  }
  if (StartsWithAny(header, {"ATen/", "c10/", "torch/", "caffe2/"})) {
    if (cuda_file) return "no LibTorch in CUDA sources; kernels take pointers, sizes and a stream";
    if (!test && TorchRooms().count(room) == 0) return absl::StrCat("no LibTorch in ", room);
  }
  if (StartsWithAny(header, {"cuda", "cub/", "cublas", "cusolver", "thrust/"}) && !test &&
      room != "models/kernels") {
    return "CUDA headers stay in models/kernels";
  }
  if (absl::EndsWith(header, ".grpc.pb.h") && !test && ServiceRooms().count(room) == 0) {
    return absl::StrCat("generated services are not for ", room, "; only messages are");
  }
  if (absl::EndsWith(header, ".pb.h") && absl::StartsWith(path, "models/")) {
    return "generated protobuf headers never under models/; convert in server/worker";
  }
  if (StartsWithAny(header, {"grpc", "grpcpp/"}) && absl::StartsWith(path, "models/")) {
    return "no gRPC under models/";
  }
  if (!StartsWithAny(header, {"models/", "server/", "client/", "tests/"}) || test) return "";

  const std::string target = RoomOf(header);
  if (target == room) return "";
  const auto arrows = Arrows().find(room);
  if (arrows == Arrows().end())
    return absl::StrCat(room, " is not in the table of floors (tests/floors/floors.cc)");
  if (arrows->second.count(target) > 0) return "";
  return absl::StrCat("there is no arrow from ", room, " to ", target);
}

}  // namespace

std::vector<std::string> CheckIncludes(absl::string_view path, absl::string_view text) {
  const std::string room = RoomOf(path);
  std::vector<std::string> violations;
  int line_number = 0;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    ++line_number;
    const std::optional<absl::string_view> header = IncludedHeader(line);
    if (!header) continue;
    const std::string rule = BrokenRule(path, room, *header);
    if (!rule.empty()) {
      violations.push_back(absl::StrCat(path, ":", line_number, ": #include \"", *header, "\": ", rule));
    }
  }
  return violations;
}

std::vector<std::string> KnownRooms() {
  std::vector<std::string> rooms;
  for (const auto& [room, below] : Arrows()) rooms.push_back(room);
  return rooms;
}

std::vector<std::string> FloorsBelow(absl::string_view room) {
  const auto found = Arrows().find(room);
  if (found == Arrows().end()) return {};
  return {found->second.begin(), found->second.end()};
}

}  // namespace eigsvc::testing
