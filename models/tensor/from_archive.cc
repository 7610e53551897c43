#include "models/tensor/from_archive.h"

#include <cstdint>
#include <cstring>
#include <memory>

#include "ATen/ops/empty.h"
#include "ATen/ops/from_blob.h"
#include "absl/strings/str_cat.h"
#include "c10/core/TensorOptions.h"
#include "models/base/status_macros.h"
#include "models/tensor/torch_call.h"

namespace eigsvc {
namespace {

c10::ScalarType DtypeOf(ElementType type) {
  switch (type) {
    case ElementType::kBool:
      return c10::kBool;
    case ElementType::kUInt8:
      return c10::kByte;
    case ElementType::kInt8:
      return c10::kChar;
    case ElementType::kUInt16:
      return c10::kUInt16;
    case ElementType::kInt16:
      return c10::kShort;
    case ElementType::kUInt32:
      return c10::kUInt32;
    case ElementType::kInt32:
      return c10::kInt;
    case ElementType::kUInt64:
      return c10::kUInt64;
    case ElementType::kInt64:
      return c10::kLong;
    case ElementType::kFloat8E4M3:
      return c10::kFloat8_e4m3fn;
    case ElementType::kFloat8E5M2:
      return c10::kFloat8_e5m2;
    case ElementType::kFloat16:
      return c10::kHalf;
    case ElementType::kBFloat16:
      return c10::kBFloat16;
    case ElementType::kFloat32:
      return c10::kFloat;
    case ElementType::kFloat64:
      return c10::kDouble;
    case ElementType::kComplex64:
      return c10::kComplexFloat;
    case ElementType::kComplex128:
      return c10::kComplexDouble;
  }
  return c10::kFloat;
}

// Elements from the first to the last that the view reaches; 0 for an empty one, -1 when it leaves the
// storage. Archives are checked where they are parsed; this is where a wrong one would become a wild pointer.
int64_t Extent(const ArchiveTensor& tensor, int64_t element_bytes) {
  if (tensor.shape.size() != tensor.strides.size() || tensor.offset < 0) return -1;
  const __int128 capacity = static_cast<__int128>(tensor.storage.size()) / element_bytes;
  __int128 last = tensor.offset;
  bool empty = false;
  for (size_t d = 0; d < tensor.shape.size(); ++d) {
    if (tensor.shape[d] < 0 || tensor.strides[d] < 0) return -1;
    if (tensor.shape[d] == 0) {
      empty = true;
      continue;
    }
    last += static_cast<__int128>(tensor.shape[d] - 1) * tensor.strides[d];
  }
  if (empty) return 0;
  return last < capacity ? static_cast<int64_t>(last) - tensor.offset + 1 : -1;
}

}  // namespace

absl::StatusOr<at::Tensor> TensorFromArchive(const ArchiveTensor& stored, const StopToken& stop) {
  EIGSVC_ASSIGN_OR_RETURN(const ArchiveTensor tensor, Fetch(stored, stop));
  const c10::ScalarType dtype = DtypeOf(tensor.type);
  const int64_t bytes = static_cast<int64_t>(c10::elementSize(dtype));
  const int64_t extent = Extent(tensor, bytes);
  if (extent < 0) {
    return absl::DataLossError(absl::StrCat("a tensor's shape and strides reach outside its storage of ",
                                            tensor.storage.size(), " bytes"));
  }
  const c10::TensorOptions options = c10::TensorOptions().dtype(dtype);
  return CallTorch("tensor from archive", [&]() -> at::Tensor {
    if (extent == 0) return at::empty(tensor.shape, options);
    const std::byte* first = tensor.storage.data() + tensor.offset * bytes;
    if (reinterpret_cast<uintptr_t>(first) % static_cast<uintptr_t>(bytes) != 0) {
      const at::Tensor copy = at::empty({extent}, options);
      std::memcpy(copy.mutable_data_ptr(), first, static_cast<size_t>(extent * bytes));
      return copy.as_strided(tensor.shape, tensor.strides);
    }
    return at::from_blob(
        const_cast<std::byte*>(first), tensor.shape, tensor.strides,
        [owner = tensor.owner](void*) mutable { owner.reset(); }, options);
  });
}

absl::StatusOr<ElementType> ElementTypeOf(const at::Tensor& tensor) {
  for (int type = 0; type <= static_cast<int>(ElementType::kComplex128); ++type) {
    if (DtypeOf(static_cast<ElementType>(type)) == tensor.scalar_type())
      return static_cast<ElementType>(type);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("safetensors has no element type for ", c10::toString(tensor.scalar_type())));
}

}  // namespace eigsvc
