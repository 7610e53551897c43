#include "models/mixers/zamba_layer.h"

#include "ATen/TensorOperators.h"
#include "models/base/status_macros.h"

namespace eigsvc {
namespace {

constexpr char kBlockNorm[] = "shared_transformer.input_layernorm",
               kNetworkNorm[] = "shared_transformer.pre_ff_layernorm",
               kMambaNorm[] = "mamba_decoder.input_layernorm";
constexpr char kGateUp[] = "shared_transformer.feed_forward.gate_up_proj",
               kGateUpAdapter[] = "shared_transformer.feed_forward.gate_up_adapter",
               kDown[] = "shared_transformer.feed_forward.down_proj";

}  // namespace

ZambaLayer::ZambaLayer(ZambaLayerSpec spec)
    : Module(""),
      spec_(std::move(spec)),
      attention_("shared_transformer.self_attn.", spec_.attention),
      mamba_("mamba_decoder.mamba.", spec_.mamba) {}

void ZambaLayer::Plan(const WeightPlanner& planner) const {
  const FeedForwardSpec& network = spec_.network;
  PlanNorm(planner, kBlockNorm, spec_.norm, spec_.attention.width);
  attention_.Plan(planner);
  PlanNorm(planner, kNetworkNorm, spec_.norm, network.width);
  planner.Linear(kGateUp, 2 * network.hidden, network.width, network.bias);
  planner.Linear(std::string(kGateUpAdapter) + ".0", spec_.adapter_rank, network.width, /*bias=*/false);
  planner.Linear(std::string(kGateUpAdapter) + ".1", 2 * network.hidden, spec_.adapter_rank, /*bias=*/false);
  planner.Linear(kDown, network.width, network.hidden, network.bias);
  planner.Linear("linear", network.width, network.width, /*bias=*/false);
  PlanNorm(planner, kMambaNorm, spec_.norm, network.width);
  mamba_.Plan(planner);
}

at::Tensor ZambaLayer::RunNetwork(const LayerCall& call, const at::Tensor& x) const {
  const std::string adapter = kGateUpAdapter;
  const at::Tensor both =
      Linear(call, kGateUp, x) + Linear(call, adapter + ".1", Linear(call, adapter + ".0", x));
  const std::vector<at::Tensor> halves = both.chunk(2, -1);
  return Linear(call, kDown, Activate(spec_.network.activation, halves[0]) * halves[1]);
}

absl::StatusOr<at::Tensor> ZambaLayer::Run(const LayerCall& call, const at::Tensor& x) const {
  EIGSVC_ASSIGN_OR_RETURN(const at::Tensor attended,
                          attention_.Run(call, ApplyNorm(spec_.norm, call.weights, kBlockNorm, x)));
  const at::Tensor said = RunNetwork(call, ApplyNorm(spec_.norm, call.weights, kNetworkNorm, attended));
  const at::Tensor input = x.narrow(-1, 0, spec_.network.width) + Linear(call, "linear", said);
  return mamba_.Run(call, ApplyNorm(spec_.norm, call.weights, kMambaNorm, input));
}

std::vector<MixerDescription> ZambaLayer::Mixers() const {
  std::vector<MixerDescription> mixers = attention_.Mixers();
  for (MixerDescription& mixer : mamba_.Mixers()) mixers.push_back(std::move(mixer));
  return mixers;
}

}  // namespace eigsvc
