#include "tests/archive/hostile_files.h"

#include <zlib.h>

#include <bit>

namespace eigsvc::testing {
namespace {

template <typename T>
std::string Little(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
}

}  // namespace

absl::Span<const std::byte> AsBytes(const std::string& text) {
  return absl::MakeConstSpan(reinterpret_cast<const std::byte*>(text.data()), text.size());
}

PickleProgram::PickleProgram(int protocol) : bytes_({'\x80', static_cast<char>(protocol)}) {}
PickleProgram& PickleProgram::Raw(const std::string& bytes) {
  bytes_ += bytes;
  return *this;
}
PickleProgram& PickleProgram::Global(const std::string& module, const std::string& name) {
  return Raw("c" + module + "\n" + name + "\n");
}
PickleProgram& PickleProgram::StackGlobal(const std::string& module, const std::string& name) {
  return Text(module).Text(name).Raw("\x93");
}
PickleProgram& PickleProgram::Text(const std::string& text) {
  return Raw("X" + Little(static_cast<uint32_t>(text.size())) + text);
}
PickleProgram& PickleProgram::Int(int64_t value) {
  if (value >= 0 && value < 256) return Raw(std::string("K") + static_cast<char>(value));
  if (value == static_cast<int32_t>(value)) return Raw("J" + Little(static_cast<int32_t>(value)));
  return Raw("\x8a\x08" + Little(value));
}
PickleProgram& PickleProgram::Real(double value) {
  return Raw("G" + Little(__builtin_bswap64(std::bit_cast<uint64_t>(value))));
}
PickleProgram& PickleProgram::Ints(const std::vector<int64_t>& values) {
  Mark();
  for (const int64_t value : values) Int(value);
  return Tuple();
}
PickleProgram& PickleProgram::Storage(const std::string& type, const std::string& key, int64_t count) {
  return Mark().Text("storage").Global("torch", type).Text(key).Text("cpu").Int(count).Tuple().Raw("Q");
}
PickleProgram& PickleProgram::Tensor(const TensorSpec& spec) {
  Global("torch._utils", "_rebuild_tensor_v2").Mark().Storage(spec.storage_type, spec.key, spec.count);
  Int(spec.offset).Ints(spec.shape).Ints(spec.strides).Raw("\x89");
  return Global("collections", "OrderedDict").Raw(")R").Tuple().Reduce();
}

std::string MakeZip(const std::vector<ZipRecord>& records) {
  std::string file, directory;
  for (const ZipRecord& record : records) {
    const uint32_t crc =
        record.checksum ? crc32(0, reinterpret_cast<const Bytef*>(record.bytes.data()), record.bytes.size())
                        : 0;
    const auto size = static_cast<uint32_t>(record.bytes.size());
    const auto name_size = static_cast<uint16_t>(record.name.size());
    const std::string common = Little<uint16_t>(20) + Little(record.flags) + Little(record.method) +
                               Little<uint32_t>(0) + Little(crc) + Little(size) + Little(size) +
                               Little(name_size) + Little<uint16_t>(0);
    directory += "PK\x01\x02" + Little<uint16_t>(20) + common + Little<uint16_t>(0) + Little<uint16_t>(0) +
                 Little<uint16_t>(0) + Little<uint32_t>(0) + Little(static_cast<uint32_t>(file.size())) +
                 record.name;
    file += "PK\x03\x04" + common + record.name + record.bytes;
  }
  const auto count = static_cast<uint16_t>(records.size());
  return file + directory + "PK\x05\x06" + Little<uint32_t>(0) + Little(count) + Little(count) +
         Little(static_cast<uint32_t>(directory.size())) + Little(static_cast<uint32_t>(file.size())) +
         Little<uint16_t>(0);
}

std::string MakeTorchFile(const std::string& program, const std::map<std::string, std::string>& records) {
  std::vector<ZipRecord> all = {{"archive/data.pkl", program}, {"archive/byteorder", "little"}};
  for (const auto& [key, bytes] : records) all.push_back({"archive/data/" + key, bytes});
  all.push_back({"archive/version", "3\n"});
  return MakeZip(all);
}

std::string MakeSafetensors(const std::string& header, const std::string& data) {
  return Little(static_cast<uint64_t>(header.size())) + header + data;
}

}  // namespace eigsvc::testing
