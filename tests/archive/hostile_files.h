// Small writers of pickles, zip files and safetensors: hostile files are made byte by byte. Used by the tests
// and the fuzz targets, so without GoogleTest.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/types/span.h"

namespace eigsvc::testing {

absl::Span<const std::byte> AsBytes(const std::string& text);
template <typename T>
std::string BytesOf(const std::vector<T>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

// A pickle program, opcode by opcode; names as in pickletools.
class PickleProgram {
 public:
  explicit PickleProgram(int protocol = 2);
  PickleProgram& Raw(const std::string& bytes);
  PickleProgram& Global(const std::string& module, const std::string& name);
  PickleProgram& StackGlobal(const std::string& module, const std::string& name);
  PickleProgram& Text(const std::string& text);
  PickleProgram& Int(int64_t value);  // BININT1, BININT or LONG1
  PickleProgram& Real(double value);
  PickleProgram& Mark() { return Raw("("); }
  PickleProgram& Tuple() { return Raw("t"); }
  PickleProgram& Dict() { return Raw("}"); }
  PickleProgram& SetItem() { return Raw("s"); }
  PickleProgram& Reduce() { return Raw("R"); }
  PickleProgram& Ints(const std::vector<int64_t>& values);  // a tuple
  PickleProgram& Storage(const std::string& type, const std::string& key, int64_t count);
  struct TensorSpec {
    std::string storage_type = "FloatStorage", key = "0";
    int64_t count = 0, offset = 0;
    std::vector<int64_t> shape, strides;
  };
  PickleProgram& Tensor(const TensorSpec& spec);
  // With STOP.
  std::string Finish() const { return bytes_ + "."; }

 private:
  std::string bytes_;
};

struct ZipRecord {
  std::string name, bytes;
  uint16_t method = 0, flags = 0;
  bool checksum = true;
};
// A zip file without zip64 records.
std::string MakeZip(const std::vector<ZipRecord>& records);
// A file as torch.save writes it; `records` are the storages by key.
std::string MakeTorchFile(const std::string& program, const std::map<std::string, std::string>& records = {});
std::string MakeSafetensors(const std::string& header, const std::string& data);

}  // namespace eigsvc::testing
