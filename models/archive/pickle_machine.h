// Pickle: the value a pickle program builds, without Python. The machine knows the opcodes that torch.save
// and pickle protocols 2 to 5 write for data, and a fixed table of callables that stand for data: tensors,
// storages, dictionaries, element types. Every other callable is refused by name when it is called; there is
// nothing in this program it could be resolved to. numpy's arrays are read as well: data sets come in them.
// Goals: linear time, memory under 48 MiB whatever the program, no recursion. Non-goals: objects. Instances
// of a table of configuration classes (argparse, omegaconf, lightning, transformers, pathlib, numpy scalars)
// become opaque nodes, which hold nothing but their class's name. Thread rule: immutable after Run; share it
// freely.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "models/archive/archive.h"
#include "models/base/stop_token.h"

namespace eigsvc {

// ('storage', type, key, location, count): the bytes are in the record of that key.
struct PickleStorage {
  std::optional<ElementType> type;  // absent for an untyped storage, whose count is of bytes
  absl::string_view key;
  int64_t count = 0;
};

// Not yet checked against its storage: any integers may stand here.
struct PickleTensor {
  ElementType type = ElementType::kFloat32;
  uint32_t storage = 0;  // index into storages()
  int64_t offset = 0;    // in elements
  std::vector<int64_t> shape, strides;
};

// A numpy array, as numpy's own pickles hold one: its bytes are in the program.
struct PickleArray {
  absl::string_view dtype;  // "u1", "i8"; empty, and the rest with it, where numpy's state is of another form
  std::vector<int64_t> shape;
  bool fortran_order = false;
  absl::string_view bytes;  // not yet checked against shape and dtype
};

class Pickle {
 public:
  using Ref = uint32_t;  // a node's index
  enum class Kind : uint8_t {
    kNone,
    kBool,
    kInt,
    kReal,
    kText,
    kBytes,
    kTuple,
    kList,
    kDict,
    kStorage,
    kTensor,
    kGlobal,
    kArray,
    kArrayType,
    kOpaque
  };

  struct Node {
    Kind kind = Kind::kNone;
    union {
      int64_t integer = 0;  // kInt, kBool
      double real;          // kReal
      uint32_t index;       // into items, storages, tensors, arrays or globals of the machine
    };
    absl::string_view text;  // kText, kBytes; name of kArrayType; class name of kOpaque
  };

  // `program` must outlive the result: texts are views into it.
  // INVALID_ARGUMENT for a callable or opcode that is not on the list (the message names it) and for programs
  // that need more memory than allowed · FAILED_PRECONDITION for quantised and sparse tensors · DATA_LOSS for
  // a truncated or inconsistent program (the message names the offset) · CANCELLED, DEADLINE_EXCEEDED.
  static absl::StatusOr<Pickle> Run(absl::Span<const std::byte> program,
                                    const StopToken& stop = StopToken::Never());

  Ref root() const { return root_; }
  const Node& node(Ref ref) const { return nodes_[ref]; }
  // Of a tuple or list: its items. Of a dict: key, value, key, value. Values may refer to containers that
  // hold them.
  absl::Span<const Ref> items(Ref ref) const { return items_[nodes_[ref].index]; }
  const PickleTensor& tensor(Ref ref) const { return tensors_[nodes_[ref].index]; }
  const PickleArray& array(Ref ref) const { return arrays_[nodes_[ref].index]; }
  absl::Span<const PickleStorage> storages() const { return storages_; }

 private:
  friend class PickleMachine;
  std::deque<Node> nodes_;  // deques: they grow without copying what they hold
  std::deque<std::vector<Ref>> items_;
  std::vector<PickleStorage> storages_;
  std::vector<PickleTensor> tensors_;
  std::vector<PickleArray> arrays_;
  Ref root_ = 0;
};

}  // namespace eigsvc
