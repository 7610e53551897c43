// Where an archive's spans become tensors.
#pragma once

#include "ATen/core/Tensor.h"
#include "absl/status/statusor.h"
#include "models/archive/archive.h"

namespace eigsvc {

// A tensor over the archive's bytes, fetched if they are not in memory, without a copy where alignment and
// dtype allow; it keeps the bytes alive. Callers that write to it, or move it to another device or dtype,
// copy first. Read-only under NoGradGuard.
absl::StatusOr<at::Tensor> TensorFromArchive(const ArchiveTensor& stored,
                                             const StopToken& stop = StopToken::Never());
// The ElementType of a tensor's dtype, for writing. INVALID_ARGUMENT for dtypes safetensors has not.
absl::StatusOr<ElementType> ElementTypeOf(const at::Tensor& tensor);

}  // namespace eigsvc
