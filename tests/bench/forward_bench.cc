// Times this project's loading, forward pass and analysis for forward.py, device.py and released.py, which
// interleave them with public implementations in one run.
//   forward_bench CHECKPOINT ROWS STEPS THREADS [DEVICE DTYPE [SETTINGS.json]]
// Reads lines from standard input and answers each with seconds, those of one pass where it makes COUNT:
//   load           the checkpoint, to the device, every weight checked
//   first          the same and then an analysis of one batch with nothing to score
//   first-as-it-runs   the same, where a layer is loaded while the one before it runs
//   forward        embedding, layers and head of ROWS sequences
//   prefill COUNT  embedding and layers alone, as analyses run them, COUNT times
//   analyze COUNT  an analysis of COUNT batches with nothing to score, so without the head
//   compat COUNT   the same by definition PAPER_COMPAT
//   tap            that the host spent in the tap during the last analysis
//   memory         the most bytes the device's allocator held since the last question instead of seconds
// Token ids are (i * 7919 + 13) mod V, the same in the scripts.
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <sstream>
#include <string>

#include "ATen/Parallel.h"
#include "ATen/core/grad_mode.h"
#include "ATen/ops/tensor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "c10/core/CachingDeviceAllocator.h"
#include "c10/core/impl/VirtualGuardImpl.h"
#include "models/analysis/analysis.h"
#include "models/base/freed_memory.h"
#include "models/base/status_macros.h"
#include "models/tensor/device.h"
#include "models/tensor/device_queue.h"
#include "models/tensor/torch_call.h"
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

class Bench {
 public:
  Bench(std::string path, int64_t rows, int64_t steps, LoadOptions options, Settings settings)
      : path_(std::move(path)),
        rows_(rows),
        steps_(steps),
        options_(options),
        settings_(std::move(settings)) {}

  absl::Status Load(bool as_it_runs = false) {
    model_.reset();
    LoadOptions options = options_;
    options.as_it_runs = as_it_runs;
    EIGSVC_ASSIGN_OR_RETURN(const Archive archive, Archive::Open(path_, {.on_demand = true}));
    EIGSVC_ASSIGN_OR_RETURN(model_, LoadModel(archive, settings_, options));
    return absl::OkStatus();
  }

  absl::StatusOr<double> Run(const std::string& line) {
    std::istringstream words(line);
    std::string what;
    int64_t count = 1;
    words >> what >> count;
    if (count < 1) count = 1;
    if (what == "memory") return PeakBytes();
    if (what == "tap") return absl::ToDoubleSeconds(tap_time_);
    const absl::Time start = absl::Now();
    if (what == "first" || what == "first-as-it-runs")
      EIGSVC_RETURN_IF_ERROR(Load(/*as_it_runs=*/what == "first-as-it-runs"));
    EIGSVC_RETURN_IF_ERROR(what == "load"      ? Load()
                           : what == "forward" ? Forward()
                           : what == "prefill" ? Prefill(count)
                                               : Analyze(count, /*compat=*/what == "compat"));
    EIGSVC_RETURN_IF_ERROR(Wait());
    return absl::ToDoubleSeconds(absl::Now() - start) / static_cast<double>(count);
  }

 private:
  absl::Status Wait() const {
    return CallTorchStatus("device", [&] {
      if (!options_.device.is_cpu())
        c10::impl::VirtualGuardImpl(options_.device.type()).synchronizeDevice(options_.device.index());
      return absl::OkStatus();
    });
  }

  absl::StatusOr<double> PeakBytes() const {
    return CallTorch("memory", [&]() -> absl::StatusOr<double> {
      if (options_.device.is_cpu()) return 0.0;
      auto* const allocator = dynamic_cast<c10::DeviceAllocator*>(c10::GetAllocator(options_.device.type()));
      if (allocator == nullptr)
        return absl::UnimplementedError("this LibTorch's allocator keeps no statistics");
      const auto total = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
      const auto peak = allocator->getDeviceStats(options_.device.index()).allocated_bytes[total].peak;
      allocator->resetPeakStats(options_.device.index());
      return static_cast<double>(peak);
    });
  }

  FixedTask TaskOf(int64_t batches) const {
    return FixedTask(batches * rows_, steps_, model_->description().vocab_size);
  }

  absl::StatusOr<at::Tensor> Tokens() const {
    EIGSVC_ASSIGN_OR_RETURN(const Batch batch, TaskOf(1).Draw(Split::kTest, 0, rows_));
    return CallTorch("tokens", [&] {
      return at::tensor(batch.tokens, at::kLong).view({rows_, steps_}).to(options_.device, at::kLong);
    });
  }

  absl::Status Forward() const {
    EIGSVC_ASSIGN_OR_RETURN(const at::Tensor tokens, Tokens());
    return model_->Forward(model_->weights(), tokens).status();
  }

  absl::Status Prefill(int64_t count) const {
    EIGSVC_ASSIGN_OR_RETURN(const at::Tensor tokens, Tokens());
    DeviceQueue queue(options_.device);
    const LayerContext context{nullptr, &StopToken::Never()};
    for (int64_t pass = 0; pass < count; ++pass) {
      EIGSVC_ASSIGN_OR_RETURN(at::Tensor x, model_->Embed(model_->weights(), tokens, 0));
      for (size_t layer = 0; layer < model_->weights().layers.size(); ++layer) {
        EIGSVC_ASSIGN_OR_RETURN(
            x, model_->Layer(static_cast<int>(layer), model_->weights().layers[layer], x, nullptr, context));
        EIGSVC_RETURN_IF_ERROR(queue.PieceQueued());
      }
    }
    return absl::OkStatus();
  }

  absl::Status Analyze(int64_t count, bool compat) {
    AnalysisOptions options;
    if (compat) options.convention.departures = Departures::All();
    options.batch_size = rows_;
    options.examples = count * rows_;
    EIGSVC_ASSIGN_OR_RETURN(const AnalysisResult result,
                            RunAnalysis(*model_, TaskOf(count), options, nullptr, StopToken()));
    tap_time_ = result.analysis_time;
    return absl::OkStatus();
  }

  const std::string path_;
  const int64_t rows_, steps_;
  const LoadOptions options_;
  const Settings settings_;
  std::shared_ptr<const SequenceModel> model_;
  absl::Duration tap_time_;
};

int Main(int argc, char** argv) {
  if (argc != 5 && argc != 7 && argc != 8) {
    std::cerr << "usage: forward_bench CHECKPOINT ROWS STEPS THREADS [DEVICE DTYPE [SETTINGS.json]]\n";
    return 2;
  }
  const auto fail = [](const absl::Status& status) { return std::cerr << status << "\n", 1; };
  KeepFreedMemory();  // as the worker does
  at::set_num_threads(std::atoi(argv[4]));
  RequireFullFloat32();
  const c10::NoGradGuard no_grad;
  LoadOptions options;
  if (argc >= 7) {
    const auto device = ParseDevice(argv[5]);
    const auto dtype = ParseDtype(argv[6]);
    if (!device.ok()) return fail(device.status());
    if (!dtype.ok()) return fail(dtype.status());
    options.device = *device;
    options.dtype = *dtype;
  }
  std::string json = "{}";
  if (argc == 8) {
    std::ifstream file(argv[7]);
    json.assign(std::istreambuf_iterator<char>(file), {});
  }
  const auto settings = Settings::Parse(json, "the settings");
  if (!settings.ok()) return fail(settings.status());
  Bench bench(argv[1], std::atoll(argv[2]), std::atoll(argv[3]), options, *settings);
  if (const absl::Status loaded = bench.Load(); !loaded.ok()) return fail(loaded);
  for (std::string line; std::getline(std::cin, line);) {
    const absl::StatusOr<double> answer = bench.Run(line);
    if (!answer.ok()) return fail(answer.status());
    std::cout << *answer << std::endl;
  }
  return 0;
}

}  // namespace
}  // namespace eigsvc

int main(int argc, char** argv) { return eigsvc::Main(argc, argv); }
