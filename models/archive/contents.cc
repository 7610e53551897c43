// Formats are told from a file's first bytes; what their readers found is checked against the file's size.
#include "models/archive/contents.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "models/archive/pickle_machine.h"
#include "models/archive/safetensors.h"
#include "models/archive/torch_zip.h"
#include "models/base/status_macros.h"
#include "models/base/status_util.h"

namespace eigsvc {
namespace {

constexpr size_t kMaxDimensions = 64;                 // as LibTorch
constexpr int64_t kMaxExpansion = int64_t{64} << 20;  // bytes that zero strides may add, over the whole file

// A format known by its first bytes that is not read, and what to do about it.
struct ForeignFormat {
  absl::string_view magic;
  size_t offset;
  absl::string_view what;
};
constexpr ForeignFormat kForeignFormats[] = {
    {absl::string_view("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19\x2e", 15), 0,
     "is a legacy torch file (before PyTorch 1.6); load it and save it again with torch.save of a newer "
     "PyTorch"},
    {absl::string_view("ustar", 5), 257,
     "is a tar file, perhaps of a very old PyTorch; load it and save it again with torch.save of a newer "
     "PyTorch"},
    {absl::string_view("GGUF", 4), 0, "is a GGUF file, which is quantised; use the model's safetensors"},
    {absl::string_view("\x89HDF", 4), 0, "is an HDF5 file; save the weights as safetensors"},
    {absl::string_view("\x1f\x8b", 2), 0, "is compressed with gzip; decompress it first"},
    {absl::string_view("version https://git-lfs", 23), 0,
     "is a Git LFS pointer, not the file itself; run `git lfs pull`"},
};

absl::string_view Text(absl::Span<const std::byte> bytes) {
  return absl::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

absl::StatusOr<FileContents> ReadSafetensors(absl::Span<const std::byte> bytes, const std::string& name,
                                             int64_t file_bytes) {
  EIGSVC_ASSIGN_OR_RETURN(const SafetensorsHeader header, ParseSafetensorsHeader(bytes, file_bytes));
  FileContents contents;
  for (const auto& [key, entry] : header.tensors) {
    FileContents::Tensor tensor{entry.type, entry.shape, std::vector<int64_t>(entry.shape.size()),
                                0,          entry.begin, entry.end};
    int64_t stride = 1;
    for (size_t d = tensor.shape.size(); d-- > 0;) {
      tensor.strides[d] = stride;
      stride *= std::max<int64_t>(tensor.shape[d], 1);
    }
    contents.tensors.emplace(key, std::move(tensor));
  }
  nlohmann::json metadata = nlohmann::json::object();
  for (const auto& [key, value] : header.metadata) metadata[key] = value;
  contents.settings = LiftConfig(Settings(std::move(metadata), absl::StrCat("the metadata of ", name)));
  contents.format = "safetensors";
  return contents;
}

absl::StatusOr<FileContents> ReadUnchecked(absl::Span<const std::byte> bytes, const std::string& name,
                                           int64_t file_bytes, const StopToken& stop) {
  const absl::string_view text = Text(bytes);
  if (absl::StartsWith(text, "PK\x03\x04")) return ReadTorchZip(bytes, name, stop);
  for (const ForeignFormat& format : kForeignFormats) {
    if (text.size() >= format.offset && absl::StartsWith(text.substr(format.offset), format.magic)) {
      return absl::FailedPreconditionError(absl::StrCat("it ", format.what));
    }
  }
  if (text.size() > 8 && text[8] == '{') return ReadSafetensors(bytes, name, file_bytes);
  if (text.size() > 2 && text[0] == '\x80' && text[1] <= 5) {
    // Never a checkpoint; what it would have called is worth saying.
    EIGSVC_RETURN_IF_ERROR(Pickle::Run(bytes, stop).status());
    return absl::InvalidArgumentError(
        "it is a bare pickle, not a file of torch.save; save model.state_dict() with torch.save");
  }
  return absl::InvalidArgumentError(
      "it is neither a safetensors file nor a zip file of torch.save; export the weights as one of them");
}

// Adds to `expansion` the bytes that a dense copy takes beyond the storage.
absl::Status CheckTensor(const FileContents::Tensor& tensor, int64_t file_bytes, __int128& expansion) {
  if (tensor.begin < 0 || tensor.end < tensor.begin || tensor.end > file_bytes) {
    return absl::DataLossError(absl::StrCat("its bytes ", tensor.begin, " to ", tensor.end,
                                            " are not inside the file of ", file_bytes, " bytes"));
  }
  if (tensor.shape.size() != tensor.strides.size()) {
    return absl::DataLossError(
        absl::StrCat("it has ", tensor.shape.size(), " sizes but ", tensor.strides.size(), " strides"));
  }
  if (tensor.shape.size() > kMaxDimensions) {
    return absl::DataLossError(
        absl::StrCat("it has ", tensor.shape.size(), " dimensions; at most ", kMaxDimensions, " are read"));
  }
  const int64_t element_bytes = ElementBytes(tensor.type);
  const int64_t capacity = (tensor.end - tensor.begin) / element_bytes;
  // The product is of all sizes that are not zero: it stays below 2^63 in whatever order it is multiplied
  // later.
  __int128 count = 1, last = tensor.offset;
  bool empty = false;
  for (size_t d = 0; d < tensor.shape.size(); ++d) {
    if (tensor.shape[d] < 0 || tensor.strides[d] < 0) {
      return absl::DataLossError(absl::StrCat("its dimension ", d, " has size ", tensor.shape[d],
                                              " and stride ", tensor.strides[d],
                                              "; neither may be negative"));
    }
    if (tensor.shape[d] == 0) {
      empty = true;
      continue;
    }
    count *= tensor.shape[d];
    last += static_cast<__int128>(tensor.shape[d] - 1) * tensor.strides[d];
    if (count > INT64_MAX / element_bytes || last > INT64_MAX)
      return absl::DataLossError(
          absl::StrCat("its shape [", absl::StrJoin(tensor.shape, ", "), "] is too large"));
  }
  if (tensor.offset < 0 || tensor.offset > capacity || (!empty && last >= capacity)) {
    return absl::DataLossError(absl::StrCat(
        "shape [", absl::StrJoin(tensor.shape, ", "), "], strides [", absl::StrJoin(tensor.strides, ", "),
        "] and offset ", tensor.offset, " reach outside its storage of ", capacity, " elements"));
  }
  // A zero stride (expand) repeats elements; a dense copy of it must stay within reason.
  if (!empty && count > capacity) {
    expansion += (count - capacity) * element_bytes;
    if (expansion > kMaxExpansion) {
      return absl::DataLossError(absl::StrCat("its shape [", absl::StrJoin(tensor.shape, ", "),
                                              "] repeats a storage of only ", capacity,
                                              " elements; call contiguous() before saving"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckContents(const FileContents& contents, int64_t file_bytes) {
  __int128 expansion = 0;
  for (const auto& [key, tensor] : contents.tensors) {
    if (const absl::Status status = CheckTensor(tensor, file_bytes, expansion); !status.ok()) {
      return Annotate(status, absl::StrCat("tensor ", Quoted(key)));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<FileContents> ReadContents(absl::Span<const std::byte> bytes, const std::string& name,
                                          int64_t file_bytes, const StopToken& stop) {
  EIGSVC_ASSIGN_OR_RETURN(FileContents contents, ReadUnchecked(bytes, name, file_bytes, stop));
  EIGSVC_RETURN_IF_ERROR(CheckContents(contents, file_bytes));
  return contents;
}

absl::btree_map<std::string, ArchiveTensor> TensorsIn(const FileContents& contents, const FileBytes& bytes) {
  absl::btree_map<std::string, ArchiveTensor> tensors;
  for (const auto& [key, found] : contents.tensors) {
    ArchiveTensor tensor{found.type, found.shape, found.strides, found.offset};
    tensor.storage = bytes.bytes.subspan(found.begin, found.end - found.begin);
    tensor.owner = bytes.owner;
    tensors.emplace(key, std::move(tensor));
  }
  return tensors;
}

absl::btree_map<std::string, ArchiveTensor> TensorsIn(const FileContents& contents,
                                                      const std::shared_ptr<const OpenedFile>& file) {
  absl::btree_map<std::string, ArchiveTensor> tensors;
  for (const auto& [key, found] : contents.tensors) {
    ArchiveTensor tensor{found.type, found.shape, found.strides, found.offset};
    tensor.file = file;
    tensor.file_begin = found.begin;
    tensor.file_end = found.end;
    tensors.emplace(key, std::move(tensor));
  }
  return tensors;
}

}  // namespace eigsvc
