// Times this project's forward pass and analysis for tests/bench/forward.py, which interleaves them with
// public implementations in one run. Reads a line from standard input ("forward" or "analyze"), answers with
// seconds.
//   forward_bench CHECKPOINT ROWS STEPS THREADS
// Token ids are (i * 7919 + 13) mod V, the same in forward.py.
#include <cstdlib>
#include <iostream>
#include <string>

#include "ATen/Parallel.h"
#include "ATen/core/grad_mode.h"
#include "ATen/ops/tensor.h"
#include "absl/time/clock.h"
#include "models/analysis/analysis.h"
#include "models/zoo/registry.h"

namespace eigsvc {
namespace {

// `rows` sequences of fixed ids with nothing to score.
class FixedTask final : public Task {
 public:
  FixedTask(int64_t rows, int64_t steps, int64_t vocab_size)
      : rows_(rows), steps_(steps), vocab_size_(vocab_size) {
    signature_.vocab_size = signature_.classes = vocab_size;
  }
  absl::string_view name() const override { return "fixed"; }
  const Settings& parameters() const override { return parameters_; }
  const TaskSignature& signature() const override { return signature_; }
  int64_t example_count(Split) const override { return rows_; }
  absl::StatusOr<Batch> Draw(Split, int64_t first, int64_t count) const override {
    Batch batch{.rows = count, .steps = steps_};
    for (int64_t i = first * steps_; i < (first + count) * steps_; ++i)
      batch.tokens.push_back((i * 7919 + 13) % vocab_size_);
    batch.targets.assign(count * steps_, kIgnoredTarget);
    batch.lengths.assign(count, steps_);
    return batch;
  }
  Score ComputeScore(Split, absl::Span<const Prediction>) const override { return {}; }

 private:
  const int64_t rows_, steps_, vocab_size_;
  const Settings parameters_;
  TaskSignature signature_;
};

int Main(int argc, char** argv) {
  if (argc != 5) {
    std::cerr << "usage: forward_bench CHECKPOINT ROWS STEPS THREADS\n";
    return 2;
  }
  at::set_num_threads(std::atoi(argv[4]));
  c10::NoGradGuard no_grad;
  auto archive = Archive::Open(argv[1]);
  if (!archive.ok()) return std::cerr << archive.status() << "\n", 1;
  auto model = LoadModel(*archive, Settings(), LoadOptions());
  if (!model.ok()) return std::cerr << model.status() << "\n", 1;
  const FixedTask task(std::atoll(argv[2]), std::atoll(argv[3]), (*model)->description().vocab_size);
  const auto batch = task.Draw(Split::kTest, 0, task.example_count(Split::kTest));
  const at::Tensor tokens = at::tensor(batch->tokens, at::kLong).view({batch->rows, batch->steps});
  for (std::string line; std::getline(std::cin, line);) {
    const absl::Time start = absl::Now();
    absl::Status status;
    if (line == "forward") {
      status = (*model)->Forward((*model)->weights(), tokens).status();
    } else {
      AnalysisOptions options;
      options.batch_size = batch->rows;
      status = RunAnalysis(**model, task, options, nullptr, StopToken()).status();
    }
    if (!status.ok()) return std::cerr << status << "\n", 1;
    std::cout << absl::ToDoubleSeconds(absl::Now() - start) << std::endl;
  }
  return 0;
}

}  // namespace
}  // namespace eigsvc

int main(int argc, char** argv) { return eigsvc::Main(argc, argv); }
