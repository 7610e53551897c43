// conformance_check [--report FILE.json] [--device cuda:N] CASE...: compares each case's directory
// (README.md) and prints a line for each; exit status 1 where one failed. conformance_check --registry prints
// what every family says of itself, as JSON.
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "ATen/Parallel.h"
#include "models/tensor/device.h"
#include "models/zoo/registry.h"
#include "tests/conformance/compare.h"

int main(int argc, char** argv) {
  using eigsvc::testing::CaseResult;
  std::string report;
  c10::Device device = c10::kCPU;
  std::vector<std::string> directories;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--registry") {
      nlohmann::json families = nlohmann::json::array();
      for (const eigsvc::FamilyEntry& family : eigsvc::Families()) {
        families.push_back({{"name", std::string(family.name)},
                            {"layouts", family.layouts},
                            {"summary", std::string(family.summary)},
                            {"transition", std::string(family.transition)},
                            {"reference", std::string(family.reference)}});
      }
      std::cout << families << "\n";
      return 0;
    }
    if (argument == "--report" && i + 1 < argc) {
      report = argv[++i];
    } else if (argument == "--device" && i + 1 < argc) {
      const auto parsed = eigsvc::ParseDevice(argv[++i]);
      if (!parsed.ok()) return std::cerr << parsed.status().message() << "\n", 2;
      device = *parsed;
    } else {
      directories.push_back(argument);
    }
  }
  at::set_num_threads(1);  // the models are tiny
  eigsvc::RequireFullFloat32();
  nlohmann::json cases = nlohmann::json::array();
  size_t failed = 0;
  for (const std::string& directory : directories) {
    const CaseResult result = eigsvc::testing::CheckCase(directory, device);
    const bool passed = result.failures.empty();
    if (!passed) ++failed;
    std::cout << (passed ? "pass  " : "FAIL  ") << result.name << "  logits " << result.logits_float32
              << " (float32) " << result.logits_float64 << " (float64), eigenvalues at " << result.eigenvalues
              << " of the allowed\n";
    for (const std::string& failure : result.failures) std::cout << "      " << failure << "\n";
    cases.push_back({{"name", result.name},
                     {"family", result.family},
                     {"layout", result.layout},
                     {"reference", result.reference},
                     {"logits_float32", result.logits_float32},
                     {"logits_float64", result.logits_float64},
                     {"eigenvalues", result.eigenvalues},
                     {"failures", result.failures},
                     {"passed", passed}});
  }
  if (!report.empty()) std::ofstream(report) << cases.dump(1) << "\n";
  std::cout << directories.size() - failed << " of " << directories.size() << " cases passed\n";
  return failed == 0 ? 0 : 1;
}
