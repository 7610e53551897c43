// Opcode meanings: CPython's Lib/pickletools.py. What the callables mean: torch/_utils.py and
// torch/serialization.py.
#include "models/archive/pickle_machine.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "models/archive/file_bytes.h"
#include "models/base/status_macros.h"

namespace eigsvc {
namespace {

constexpr size_t kMaxMemory = size_t{48} << 20;
constexpr size_t kMaxStack = size_t{1} << 20;
constexpr size_t kMaxTensors = 65536;
constexpr size_t kMaxDimensions = 64;

// What a callable on the list stands for.
enum class Role : uint8_t {
  kUnlisted,
  kDict,         // OrderedDict, defaultdict, Namespace: an empty or copied dict
  kSequence,     // set, list, tuple, torch.Size: their argument as a list
  kOpaque,       // a class whose instances are ignored
  kTensor,       // _rebuild_tensor(storage, offset, size, stride), _rebuild_tensor_v2(+ requires_grad, hooks,
                 // metadata)
  kTensorV3,     // _rebuild_tensor_v3: the element type is an argument
  kParameter,    // a tensor is its first argument
  kTypedTensor,  // _rebuild_from_type_v2(function, type, arguments, state)
  kTensorType,   // a class that may be that type
  kStorage,      // the first item of a storage's id
  kElementType,  // torch.float32
  kArray,        // numpy's _reconstruct(class, shape, type): BUILD fills it in
  kArrayType,    // numpy.dtype(name, ...)
  kUnsupported,  // known, cannot be analysed
};

struct Callable {
  absl::string_view module, name;
  Role role = Role::kUnlisted;
  std::optional<ElementType> type = std::nullopt;  // of storages and element types; absent: untyped
};

constexpr Callable kCallables[] = {
    {"collections", "OrderedDict", Role::kDict},
    {"collections", "defaultdict", Role::kDict},
    {"collections", "Counter", Role::kDict},
    {"builtins", "dict", Role::kDict},
    {"__builtin__", "dict", Role::kDict},
    {"argparse", "Namespace", Role::kDict},
    {"types", "SimpleNamespace", Role::kDict},
    {"lightning.fabric.utilities.data", "AttributeDict", Role::kDict},
    {"lightning_fabric.utilities.data", "AttributeDict", Role::kDict},
    {"pytorch_lightning.utilities.parsing", "AttributeDict", Role::kDict},
    {"lightning.pytorch.utilities.parsing", "AttributeDict", Role::kDict},
    {"torch", "Size", Role::kSequence},
    {"builtins", "list", Role::kSequence},
    {"builtins", "tuple", Role::kSequence},
    {"builtins", "set", Role::kSequence},
    {"builtins", "frozenset", Role::kSequence},
    {"__builtin__", "list", Role::kSequence},
    {"__builtin__", "tuple", Role::kSequence},
    {"__builtin__", "set", Role::kSequence},
    {"__builtin__", "frozenset", Role::kSequence},
    {"builtins", "complex", Role::kOpaque},
    {"builtins", "slice", Role::kOpaque},
    {"builtins", "range", Role::kOpaque},
    {"builtins", "bytearray", Role::kOpaque},
    {"__builtin__", "complex", Role::kOpaque},
    {"__builtin__", "bytearray", Role::kOpaque},
    {"_codecs", "encode", Role::kOpaque},
    {"torch", "device", Role::kOpaque},
    {"torch.serialization", "_get_layout", Role::kOpaque},
    {"datetime", "datetime", Role::kOpaque},
    {"datetime", "date", Role::kOpaque},
    {"datetime", "timedelta", Role::kOpaque},
    {"pathlib", "Path", Role::kOpaque},
    {"pathlib", "PosixPath", Role::kOpaque},
    {"pathlib", "WindowsPath", Role::kOpaque},
    {"pathlib", "PurePath", Role::kOpaque},
    {"pathlib", "PurePosixPath", Role::kOpaque},
    {"pathlib", "PureWindowsPath", Role::kOpaque},
    {"pathlib._local", "PosixPath", Role::kOpaque},
    {"pathlib._local", "WindowsPath", Role::kOpaque},
    {"pathlib._local", "PurePosixPath", Role::kOpaque},
    {"pathlib._local", "PureWindowsPath", Role::kOpaque},
    {"omegaconf.dictconfig", "DictConfig", Role::kOpaque},
    {"omegaconf.listconfig", "ListConfig", Role::kOpaque},
    {"omegaconf.base", "ContainerMetadata", Role::kOpaque},
    {"omegaconf.base", "Metadata", Role::kOpaque},
    {"omegaconf.nodes", "AnyNode", Role::kOpaque},
    {"omegaconf.nodes", "StringNode", Role::kOpaque},
    {"omegaconf.nodes", "IntegerNode", Role::kOpaque},
    {"omegaconf.nodes", "FloatNode", Role::kOpaque},
    {"omegaconf.nodes", "BooleanNode", Role::kOpaque},
    {"omegaconf.nodes", "EnumNode", Role::kOpaque},
    {"omegaconf.nodes", "BytesNode", Role::kOpaque},
    {"omegaconf.nodes", "PathNode", Role::kOpaque},
    {"transformers.configuration_utils", "PretrainedConfig", Role::kOpaque},
    {"transformers.configuration_utils", "PreTrainedConfig", Role::kOpaque},
    {"transformers.generation.configuration_utils", "GenerationConfig", Role::kOpaque},
    {"transformers.training_args", "TrainingArguments", Role::kOpaque},
    {"transformers.training_args", "OptimizerNames", Role::kOpaque},
    {"transformers.training_args_seq2seq", "Seq2SeqTrainingArguments", Role::kOpaque},
    {"transformers.trainer_utils", "IntervalStrategy", Role::kOpaque},
    {"transformers.trainer_utils", "SaveStrategy", Role::kOpaque},
    {"transformers.trainer_utils", "SchedulerType", Role::kOpaque},
    {"transformers.trainer_utils", "HubStrategy", Role::kOpaque},
    {"transformers.trainer_pt_utils", "AcceleratorConfig", Role::kOpaque},
    {"numpy", "dtype", Role::kArrayType},
    {"numpy", "ndarray", Role::kOpaque},
    {"numpy.core.multiarray", "scalar", Role::kOpaque},
    {"numpy.core.multiarray", "_reconstruct", Role::kArray},
    {"numpy._core.multiarray", "scalar", Role::kOpaque},
    {"numpy._core.multiarray", "_reconstruct", Role::kArray},
    {"torch._utils", "_rebuild_tensor", Role::kTensor},
    {"torch._utils", "_rebuild_tensor_v2", Role::kTensor},
    {"torch._utils", "_rebuild_tensor_v3", Role::kTensorV3},
    {"torch._utils", "_rebuild_parameter", Role::kParameter},
    {"torch._utils", "_rebuild_parameter_with_state", Role::kParameter},
    {"torch.nn.parameter", "Parameter", Role::kParameter},
    {"torch.nn.parameter", "Buffer", Role::kParameter},
    {"torch._tensor", "_rebuild_from_type_v2", Role::kTypedTensor},
    {"torch", "Tensor", Role::kTensorType},
    {"torch._tensor", "Tensor", Role::kTensorType},
    {"torch", "BoolStorage", Role::kStorage, ElementType::kBool},
    {"torch", "ByteStorage", Role::kStorage, ElementType::kUInt8},
    {"torch", "CharStorage", Role::kStorage, ElementType::kInt8},
    {"torch", "ShortStorage", Role::kStorage, ElementType::kInt16},
    {"torch", "IntStorage", Role::kStorage, ElementType::kInt32},
    {"torch", "LongStorage", Role::kStorage, ElementType::kInt64},
    {"torch", "HalfStorage", Role::kStorage, ElementType::kFloat16},
    {"torch", "BFloat16Storage", Role::kStorage, ElementType::kBFloat16},
    {"torch", "FloatStorage", Role::kStorage, ElementType::kFloat32},
    {"torch", "DoubleStorage", Role::kStorage, ElementType::kFloat64},
    {"torch", "ComplexFloatStorage", Role::kStorage, ElementType::kComplex64},
    {"torch", "ComplexDoubleStorage", Role::kStorage, ElementType::kComplex128},
    {"torch", "UntypedStorage", Role::kStorage},
    {"torch.storage", "UntypedStorage", Role::kStorage},
    {"torch", "bool", Role::kElementType, ElementType::kBool},
    {"torch", "uint8", Role::kElementType, ElementType::kUInt8},
    {"torch", "int8", Role::kElementType, ElementType::kInt8},
    {"torch", "uint16", Role::kElementType, ElementType::kUInt16},
    {"torch", "int16", Role::kElementType, ElementType::kInt16},
    {"torch", "uint32", Role::kElementType, ElementType::kUInt32},
    {"torch", "int32", Role::kElementType, ElementType::kInt32},
    {"torch", "uint64", Role::kElementType, ElementType::kUInt64},
    {"torch", "int64", Role::kElementType, ElementType::kInt64},
    {"torch", "float8_e4m3fn", Role::kElementType, ElementType::kFloat8E4M3},
    {"torch", "float8_e5m2", Role::kElementType, ElementType::kFloat8E5M2},
    {"torch", "float16", Role::kElementType, ElementType::kFloat16},
    {"torch", "bfloat16", Role::kElementType, ElementType::kBFloat16},
    {"torch", "float32", Role::kElementType, ElementType::kFloat32},
    {"torch", "float64", Role::kElementType, ElementType::kFloat64},
    {"torch", "complex64", Role::kElementType, ElementType::kComplex64},
    {"torch", "complex128", Role::kElementType, ElementType::kComplex128},
    {"torch._utils", "_rebuild_qtensor", Role::kUnsupported},
    {"torch._utils", "_rebuild_sparse_tensor", Role::kUnsupported},
    {"torch._utils", "_rebuild_nested_tensor", Role::kUnsupported},
    {"torch._utils", "_rebuild_meta_tensor_no_storage", Role::kUnsupported},
    {"torch._utils", "_rebuild_wrapper_subclass", Role::kUnsupported},
    {"torch", "QInt8Storage", Role::kUnsupported},
    {"torch", "QUInt8Storage", Role::kUnsupported},
    {"torch", "QInt32Storage", Role::kUnsupported},
    {"torch", "QUInt4x2Storage", Role::kUnsupported},
    {"torch", "QUInt2x4Storage", Role::kUnsupported},
};

// "transformers.models.NAME.configuration_NAME NAMEConfig": the class of a model's settings, one a family.
bool IsTransformersConfig(absl::string_view module, absl::string_view name) {
  const auto word = [](absl::string_view text) {
    return !text.empty() && std::all_of(text.begin(), text.end(), [](char letter) {
      return absl::ascii_isalnum(static_cast<unsigned char>(letter)) || letter == '_';
    });
  };
  if (!absl::ConsumePrefix(&module, "transformers.models.")) return false;
  const size_t dot = std::min(module.find('.'), module.size());
  absl::string_view file = module.substr(dot);
  return word(module.substr(0, dot)) && absl::ConsumePrefix(&file, ".configuration_") && word(file) &&
         word(name) && absl::EndsWith(name, "Config");
}

Callable Look(absl::string_view module, absl::string_view name) {
  for (const Callable& callable : kCallables) {
    if (callable.module == module && callable.name == name) return callable;
  }
  return {module, name, IsTransformersConfig(module, name) ? Role::kOpaque : Role::kUnlisted};
}

// Opcodes by their byte; those that are refused by name only are in RefusedName.
enum Opcode : uint8_t {
  kMark = '(',
  kStop = '.',
  kBinFloat = 'G',
  kBinInt = 'J',
  kBinInt1 = 'K',
  kBinInt2 = 'M',
  kNone = 'N',
  kBinPersId = 'Q',
  kReduce = 'R',
  kBinString = 'T',
  kShortBinString = 'U',
  kBinUnicode = 'X',
  kAppend = 'a',
  kBuild = 'b',
  kGlobal = 'c',
  kAppends = 'e',
  kBinGet = 'h',
  kInst = 'i',
  kLongBinGet = 'j',
  kObj = 'o',
  kBinPut = 'q',
  kLongBinPut = 'r',
  kSetItem = 's',
  kTuple = 't',
  kSetItems = 'u',
  kEmptyDict = '}',
  kEmptyList = ']',
  kEmptyTuple = ')',
  kBinBytes = 'B',
  kShortBinBytes = 'C',
  kProto = 0x80,
  kNewObj = 0x81,
  kExt1 = 0x82,
  kExt2 = 0x83,
  kExt4 = 0x84,
  kTuple1 = 0x85,
  kTuple2 = 0x86,
  kTuple3 = 0x87,
  kNewTrue = 0x88,
  kNewFalse = 0x89,
  kLong1 = 0x8a,
  kLong4 = 0x8b,
  kShortBinUnicode = 0x8c,
  kBinUnicode8 = 0x8d,
  kBinBytes8 = 0x8e,
  kEmptySet = 0x8f,
  kAddItems = 0x90,
  kFrozenSet = 0x91,
  kNewObjEx = 0x92,
  kStackGlobal = 0x93,
  kMemoize = 0x94,
  kFrame = 0x95,
};

absl::string_view RefusedName(uint8_t opcode) {
  switch (opcode) {
    case '0':
      return "POP";
    case '1':
      return "POP_MARK";
    case '2':
      return "DUP";
    case 'F':
      return "FLOAT";
    case 'I':
      return "INT";
    case 'L':
      return "LONG";
    case 'P':
      return "PERSID";
    case 'S':
      return "STRING";
    case 'V':
      return "UNICODE";
    case 'd':
      return "DICT";
    case 'g':
      return "GET";
    case 'l':
      return "LIST";
    case 'p':
      return "PUT";
    case 0x96:
      return "BYTEARRAY8";
    case 0x97:
      return "NEXT_BUFFER";
    case 0x98:
      return "READONLY_BUFFER";
    default:
      return "";
  }
}

constexpr absl::string_view kRemedy = "save only the weights: torch.save(model.state_dict(), path)";

absl::Status RefusedCall(absl::string_view module, absl::string_view name) {
  const std::string quoted = Quoted(absl::StrCat(module.substr(0, 100), " ", name.substr(0, 100)));
  return absl::InvalidArgumentError(absl::StrCat(
      "the pickle calls ", quoted, ", which is not on the list; it was not executed; ", kRemedy));
}

}  // namespace

class PickleMachine {
 public:
  explicit PickleMachine(absl::Span<const std::byte> program)
      : program_(reinterpret_cast<const char*>(program.data()), program.size()) {}

  absl::StatusOr<Pickle> Run(const StopToken& stop) {
    constexpr uint64_t kStepsBetweenChecks = 1 << 14;
    for (uint64_t steps = 0;; ++steps) {
      if (steps % kStepsBetweenChecks == 0) EIGSVC_RETURN_IF_ERROR(stop.Check());
      start_ = position_;
      if (position_ == program_.size()) return Damaged("it ends without STOP");
      const auto opcode = static_cast<uint8_t>(program_[position_++]);
      if (opcode == kStop) break;
      EIGSVC_RETURN_IF_ERROR(Step(opcode));
      if (memory_ > kMaxMemory || stack_.size() > kMaxStack || marks_.size() > kMaxStack) {
        return absl::InvalidArgumentError(
            absl::StrCat("the pickle needs too much memory at byte ", start_, "; ", kRemedy));
      }
    }
    if (stack_.size() != 1 || !marks_.empty()) return Damaged("STOP finds more or less than one value");
    pickle_.root_ = stack_.back();
    if (const Pickle::Node& root = At(stack_.back());
        root.kind == Kind::kGlobal && globals_[root.index].role == Role::kUnlisted) {
      return RefusedCall(globals_[root.index].module, globals_[root.index].name);
    }
    return std::move(pickle_);
  }

 private:
  using Ref = Pickle::Ref;
  using Kind = Pickle::Kind;

  const Pickle::Node& At(Ref ref) const { return pickle_.nodes_[ref]; }
  std::vector<Ref>& Items(Ref ref) { return pickle_.items_[At(ref).index]; }

  absl::Status Damaged(absl::string_view what) const {
    return absl::DataLossError(absl::StrCat("the pickle is damaged at byte ", start_, ": ", what));
  }
  absl::Status Refused(absl::string_view what) const {
    return absl::InvalidArgumentError(
        absl::StrCat("the pickle is refused at byte ", start_, ": ", what, "; ", kRemedy));
  }

  // ---- The program's operands.

  absl::StatusOr<absl::string_view> Take(uint64_t count) {
    if (count > program_.size() - position_) return Damaged("an operand is cut off");
    const absl::string_view taken = program_.substr(position_, count);
    position_ += count;
    return taken;
  }
  absl::StatusOr<absl::string_view> TakeLine() {
    const size_t end = program_.find('\n', position_);
    if (end == absl::string_view::npos) return Damaged("a name is cut off");
    const absl::string_view line = program_.substr(position_, end - position_);
    position_ = end + 1;
    return line;
  }
  // Little endian, as is every machine this builds for.
  template <typename T>
  absl::StatusOr<T> TakeNumber() {
    EIGSVC_ASSIGN_OR_RETURN(const absl::string_view bytes, Take(sizeof(T)));
    T value;
    std::memcpy(&value, bytes.data(), sizeof(T));
    return value;
  }
  template <typename Length>
  absl::Status PushText(Kind kind) {
    EIGSVC_ASSIGN_OR_RETURN(const Length length, TakeNumber<Length>());
    EIGSVC_ASSIGN_OR_RETURN(const absl::string_view text, Take(length));
    Push(NewText(kind, text));
    return absl::OkStatus();
  }

  // ---- Nodes; each is charged for.

  Ref New(Pickle::Node node) {
    memory_ += sizeof(Pickle::Node);
    pickle_.nodes_.push_back(node);
    return static_cast<Ref>(pickle_.nodes_.size() - 1);
  }
  Ref NewText(Kind kind, absl::string_view text) {
    Pickle::Node node{kind};
    node.text = text;
    return New(node);
  }
  Ref NewInt(Kind kind, int64_t value) {
    Pickle::Node node{kind};
    node.integer = value;
    return New(node);
  }
  Ref NewIndexed(Kind kind, size_t index) {
    Pickle::Node node{kind};
    node.index = static_cast<uint32_t>(index);
    return New(node);
  }
  Ref NewContainer(Kind kind, std::vector<Ref> items) {
    memory_ += sizeof(std::vector<Ref>) + items.capacity() * sizeof(Ref);
    pickle_.items_.push_back(std::move(items));
    return NewIndexed(kind, pickle_.items_.size() - 1);
  }
  void AddItem(Ref container, Ref item) {
    memory_ += 2 * sizeof(Ref);  // with the slack of a growing vector
    Items(container).push_back(item);
  }

  // ---- The stack. A mark hides what is below it.

  void Push(Ref ref) { stack_.push_back(ref); }
  absl::StatusOr<Ref> Pop() {
    if (stack_.size() <= Floor()) return Damaged("the stack is empty");
    const Ref ref = stack_.back();
    stack_.pop_back();
    return ref;
  }
  absl::StatusOr<Ref> Top() const {
    if (stack_.size() <= Floor()) return Damaged("the stack is empty");
    return stack_.back();
  }
  size_t Floor() const { return marks_.empty() ? 0 : marks_.back(); }
  absl::StatusOr<std::vector<Ref>> PopToMark() {
    if (marks_.empty()) return Damaged("no mark on the stack");
    std::vector<Ref> items(stack_.begin() + marks_.back(), stack_.end());
    stack_.resize(marks_.back());
    marks_.pop_back();
    return items;
  }
  absl::Status PushTuple(size_t count) {
    if (stack_.size() - Floor() < count) return Damaged("the stack is empty");
    std::vector<Ref> items(stack_.end() - count, stack_.end());
    stack_.resize(stack_.size() - count);
    Push(NewContainer(Kind::kTuple, std::move(items)));
    return absl::OkStatus();
  }

  absl::Status Step(uint8_t opcode) {
    switch (opcode) {
      case kProto: {
        EIGSVC_ASSIGN_OR_RETURN(const uint8_t protocol, TakeNumber<uint8_t>());
        if (protocol > 5) return Refused(absl::StrCat("pickle protocol ", protocol, " is unknown"));
        return absl::OkStatus();
      }
      case kFrame:
        return TakeNumber<uint64_t>().status();  // a hint for readers of streams
      case kMark:
        marks_.push_back(stack_.size());
        return absl::OkStatus();
      case kNone:
        Push(New({Kind::kNone}));
        return absl::OkStatus();
      case kNewTrue:
        Push(NewInt(Kind::kBool, 1));
        return absl::OkStatus();
      case kNewFalse:
        Push(NewInt(Kind::kBool, 0));
        return absl::OkStatus();
      case kBinInt:
        return PushInt<int32_t>();
      case kBinInt1:
        return PushInt<uint8_t>();
      case kBinInt2:
        return PushInt<uint16_t>();
      case kLong1:
        return PushLong<uint8_t>();
      case kLong4:
        return PushLong<uint32_t>();
      case kBinFloat: {
        EIGSVC_ASSIGN_OR_RETURN(const uint64_t bits, TakeNumber<uint64_t>());
        Pickle::Node node{Kind::kReal};
        node.real = std::bit_cast<double>(__builtin_bswap64(bits));  // the one big-endian operand
        Push(New(node));
        return absl::OkStatus();
      }
      case kShortBinString:
      case kShortBinUnicode:
        return PushText<uint8_t>(Kind::kText);
      case kBinString:
      case kBinUnicode:
        return PushText<uint32_t>(Kind::kText);
      case kBinUnicode8:
        return PushText<uint64_t>(Kind::kText);
      case kShortBinBytes:
        return PushText<uint8_t>(Kind::kBytes);
      case kBinBytes:
        return PushText<uint32_t>(Kind::kBytes);
      case kBinBytes8:
        return PushText<uint64_t>(Kind::kBytes);
      case kEmptyDict:
        Push(NewContainer(Kind::kDict, {}));
        return absl::OkStatus();
      case kEmptyList:
      case kEmptySet:
        Push(NewContainer(Kind::kList, {}));
        return absl::OkStatus();
      case kEmptyTuple:
        return PushTuple(0);
      case kTuple1:
        return PushTuple(1);
      case kTuple2:
        return PushTuple(2);
      case kTuple3:
        return PushTuple(3);
      case kTuple:
      case kFrozenSet: {
        EIGSVC_ASSIGN_OR_RETURN(std::vector<Ref> items, PopToMark());
        Push(NewContainer(Kind::kTuple, std::move(items)));
        return absl::OkStatus();
      }
      case kAppend: {
        EIGSVC_ASSIGN_OR_RETURN(const Ref item, Pop());
        return AddItems({item});
      }
      case kAppends:
      case kAddItems: {
        EIGSVC_ASSIGN_OR_RETURN(const std::vector<Ref> items, PopToMark());
        return AddItems(items);
      }
      case kSetItem: {
        EIGSVC_ASSIGN_OR_RETURN(const Ref value, Pop());
        EIGSVC_ASSIGN_OR_RETURN(const Ref key, Pop());
        return SetItems({key, value});
      }
      case kSetItems: {
        EIGSVC_ASSIGN_OR_RETURN(const std::vector<Ref> items, PopToMark());
        return SetItems(items);
      }
      case kBinPut:
        return Put<uint8_t>();
      case kLongBinPut:
        return Put<uint32_t>();
      case kMemoize:
        return PutAt(static_cast<uint32_t>(memo_.size()));
      case kBinGet:
        return Get<uint8_t>();
      case kLongBinGet:
        return Get<uint32_t>();
      case kGlobal: {
        EIGSVC_ASSIGN_OR_RETURN(const absl::string_view module, TakeLine());
        EIGSVC_ASSIGN_OR_RETURN(const absl::string_view name, TakeLine());
        PushGlobal(module, name);
        return absl::OkStatus();
      }
      case kStackGlobal: {
        EIGSVC_ASSIGN_OR_RETURN(const Ref name, Pop());
        EIGSVC_ASSIGN_OR_RETURN(const Ref module, Pop());
        if (At(name).kind != Kind::kText || At(module).kind != Kind::kText)
          return Damaged("a global's name is no text");
        PushGlobal(At(module).text, At(name).text);
        return absl::OkStatus();
      }
      case kBinPersId:
        return PushStorage();
      case kReduce:
      case kNewObj: {
        EIGSVC_ASSIGN_OR_RETURN(const Ref arguments, Pop());
        EIGSVC_ASSIGN_OR_RETURN(const Ref callable, Pop());
        return Call(callable, arguments);
      }
      case kNewObjEx: {
        EIGSVC_ASSIGN_OR_RETURN(const Ref keywords, Pop());
        EIGSVC_ASSIGN_OR_RETURN(const Ref arguments, Pop());
        EIGSVC_ASSIGN_OR_RETURN(const Ref callable, Pop());
        if (At(keywords).kind != Kind::kDict) return Damaged("keyword arguments are no dict");
        return Call(callable, arguments);
      }
      case kBuild:
        return Build();
      case kInst: {
        EIGSVC_ASSIGN_OR_RETURN(const absl::string_view module, TakeLine());
        EIGSVC_ASSIGN_OR_RETURN(const absl::string_view name, TakeLine());
        return RefusedCall(module, name);
      }
      case kObj: {
        EIGSVC_ASSIGN_OR_RETURN(const std::vector<Ref> items, PopToMark());
        if (items.empty()) return Damaged("OBJ without a class");
        if (At(items[0]).kind != Kind::kGlobal)
          return Refused("it calls a value that is no known callable; it was not executed");
        return RefusedCall(globals_[At(items[0]).index].module, globals_[At(items[0]).index].name);
      }
      case kExt1:
        return RefuseExtension<uint8_t>();
      case kExt2:
        return RefuseExtension<uint16_t>();
      case kExt4:
        return RefuseExtension<uint32_t>();
      default:
        if (const absl::string_view name = RefusedName(opcode); !name.empty()) return RefuseOpcode(name);
        return Damaged(absl::StrCat("unknown opcode 0x", absl::Hex(opcode, absl::kZeroPad2)));
    }
  }

  template <typename T>
  absl::Status PushInt() {
    EIGSVC_ASSIGN_OR_RETURN(const T value, TakeNumber<T>());
    Push(NewInt(Kind::kInt, value));
    return absl::OkStatus();
  }
  // Two's complement of any length. What leaves 64 bits (seeds of random generators) is kept as an opaque
  // node.
  template <typename Length>
  absl::Status PushLong() {
    EIGSVC_ASSIGN_OR_RETURN(const Length length, TakeNumber<Length>());
    EIGSVC_ASSIGN_OR_RETURN(const absl::string_view bytes, Take(length));
    if (length > 8) {
      Push(NewText(Kind::kOpaque, "a large integer"));
      return absl::OkStatus();
    }
    uint64_t value = length > 0 && static_cast<int8_t>(bytes.back()) < 0 ? ~uint64_t{0} : 0;
    std::memcpy(&value, bytes.data(), bytes.size());
    Push(NewInt(Kind::kInt, static_cast<int64_t>(value)));
    return absl::OkStatus();
  }
  // Names a callable the opcode may have been meant for: exploits are often written in the oldest protocol.
  absl::Status RefuseOpcode(absl::string_view name) const {
    std::string meant;
    for (const Callable& global : globals_) {
      if (global.role == Role::kUnlisted) {
        meant = absl::StrCat(
            ", as is ", Quoted(absl::StrCat(global.module.substr(0, 100), " ", global.name.substr(0, 100))));
      }
    }
    return Refused(absl::StrCat("opcode ", name, " is not on the list", meant, "; nothing was executed"));
  }
  template <typename T>
  absl::Status RefuseExtension() {
    EIGSVC_ASSIGN_OR_RETURN(const T code, TakeNumber<T>());
    return RefusedCall("extension", absl::StrCat("code ", code));
  }

  // A hash map: memo indices come from the file and may be sparse.
  template <typename T>
  absl::Status Put() {
    EIGSVC_ASSIGN_OR_RETURN(const T index, TakeNumber<T>());
    return PutAt(index);
  }
  absl::Status PutAt(uint32_t index) {
    EIGSVC_ASSIGN_OR_RETURN(const Ref top, Top());
    if (memo_.insert_or_assign(index, top).second) memory_ += 4 * sizeof(std::pair<uint32_t, Ref>);
    return absl::OkStatus();
  }
  template <typename T>
  absl::Status Get() {
    EIGSVC_ASSIGN_OR_RETURN(const T index, TakeNumber<T>());
    const auto found = memo_.find(index);
    if (found == memo_.end()) return Damaged(absl::StrCat("nothing was memoised as ", index));
    Push(found->second);
    return absl::OkStatus();
  }

  absl::Status AddItems(absl::Span<const Ref> items) {
    EIGSVC_ASSIGN_OR_RETURN(const Ref target, Top());
    if (At(target).kind == Kind::kOpaque) return absl::OkStatus();
    if (At(target).kind != Kind::kList) return Damaged("items are added to what is no list");
    for (const Ref item : items) AddItem(target, item);
    return absl::OkStatus();
  }
  absl::Status SetItems(absl::Span<const Ref> items) {
    EIGSVC_ASSIGN_OR_RETURN(const Ref target, Top());
    if (items.size() % 2 != 0) return Damaged("a key without a value");
    if (At(target).kind == Kind::kOpaque) return absl::OkStatus();
    if (At(target).kind != Kind::kDict) return Damaged("items are set in what is no dict");
    for (const Ref item : items) AddItem(target, item);
    return absl::OkStatus();
  }

  void PushGlobal(absl::string_view module, absl::string_view name) {
    memory_ += 2 * sizeof(Callable);
    globals_.push_back(Look(module, name));
    Push(NewIndexed(Kind::kGlobal, globals_.size() - 1));
  }

  // ---- Calls.

  absl::Status Call(Ref callable, Ref arguments) {
    if (At(callable).kind != Kind::kGlobal)
      return Refused("it calls a value that is no known callable; it was not executed");
    const Callable called = globals_[At(callable).index];
    if (called.role == Role::kUnlisted) return RefusedCall(called.module, called.name);
    if (At(arguments).kind != Kind::kTuple) return Damaged("the arguments of a call are no tuple");
    // A view: copying would let a short program repeat a long tuple in quadratic time. Nodes move, their
    // items do not.
    const absl::Span<const Ref> args = Items(arguments);
    switch (called.role) {
      case Role::kDict:
        return PushDict(args);
      case Role::kSequence:
        return PushSequence(args);
      case Role::kOpaque:
        Push(NewText(Kind::kOpaque, called.name));
        return absl::OkStatus();
      case Role::kTensor:
      case Role::kTensorV3:
        return PushTensor(called, args);
      case Role::kParameter:
        if (args.empty() || At(args[0]).kind != Kind::kTensor) return Damaged("a parameter without a tensor");
        Push(args[0]);
        return absl::OkStatus();
      case Role::kTypedTensor:
        return PushTypedTensor(args);
      case Role::kArray:
        memory_ += 2 * sizeof(PickleArray);
        pickle_.arrays_.emplace_back();
        Push(NewIndexed(Kind::kArray, pickle_.arrays_.size() - 1));
        return absl::OkStatus();
      case Role::kArrayType:
        Push(NewText(Kind::kArrayType,
                     args.empty() || At(args[0]).kind != Kind::kText ? "" : At(args[0]).text));
        return absl::OkStatus();
      case Role::kUnsupported:
        return Unsupported(called);
      default:
        return RefusedCall(called.module, called.name);  // types and element types are named, not called
    }
  }

  absl::Status Unsupported(const Callable& called) const {
    return absl::FailedPreconditionError(absl::StrCat(
        "the checkpoint holds a quantised, sparse or otherwise special tensor (", called.module, " ",
        called.name, "); convert it to an ordinary one first, for example with dequantize() or to_dense()"));
  }

  // dict(), defaultdict(factory), OrderedDict([[key, value], ...]) of Python 2, Counter({...}).
  absl::Status PushDict(absl::Span<const Ref> args) {
    std::vector<Ref> items;
    for (const Ref arg : args) {
      if (At(arg).kind == Kind::kDict) {
        items = Items(arg);
      } else if (At(arg).kind == Kind::kList) {
        for (const Ref pair : Items(arg)) {
          const bool sequence = At(pair).kind == Kind::kTuple || At(pair).kind == Kind::kList;
          if (!sequence || Items(pair).size() != 2) return Damaged("a dict is made of what are no pairs");
          items.insert(items.end(), Items(pair).begin(), Items(pair).end());
        }
      }
    }
    Push(NewContainer(Kind::kDict, std::move(items)));
    return absl::OkStatus();
  }

  absl::Status PushSequence(absl::Span<const Ref> args) {
    std::vector<Ref> items;
    if (!args.empty()) {
      if (At(args[0]).kind != Kind::kTuple && At(args[0]).kind != Kind::kList)
        return Damaged("a sequence is made of what is none");
      items = Items(args[0]);
    }
    Push(NewContainer(Kind::kList, std::move(items)));
    return absl::OkStatus();
  }

  absl::Status PushStorage() {
    EIGSVC_ASSIGN_OR_RETURN(const Ref id, Pop());
    if (At(id).kind != Kind::kTuple || Items(id).size() < 5)
      return Damaged("a storage's id is no tuple of five");
    const std::vector<Ref>& parts = Items(id);
    const Pickle::Node &tag = At(parts[0]), &type = At(parts[1]), &key = At(parts[2]), &count = At(parts[4]);
    if (tag.kind != Kind::kText || tag.text != "storage" || key.kind != Kind::kText ||
        count.kind != Kind::kInt) {
      return Damaged("a persistent id is no storage's");
    }
    if (type.kind != Kind::kGlobal) return Damaged("a storage without a type");
    const Callable& storage_type = globals_[type.index];
    if (storage_type.role == Role::kUnsupported) return Unsupported(storage_type);
    if (storage_type.role != Role::kStorage) return RefusedCall(storage_type.module, storage_type.name);
    memory_ += 2 * sizeof(PickleStorage);
    pickle_.storages_.push_back({storage_type.type, key.text, count.integer});
    Push(NewIndexed(Kind::kStorage, pickle_.storages_.size() - 1));
    return absl::OkStatus();
  }

  absl::StatusOr<std::vector<int64_t>> Integers(Ref ref) {
    if (At(ref).kind != Kind::kTuple && At(ref).kind != Kind::kList)
      return Damaged("a size or stride is no tuple");
    if (Items(ref).size() > kMaxDimensions) return Damaged("a tensor has more than 64 dimensions");
    std::vector<int64_t> values;
    for (const Ref item : Items(ref)) {
      if (At(item).kind != Kind::kInt) return Damaged("a size or stride is no integer");
      values.push_back(At(item).integer);
    }
    return values;
  }

  // (storage, offset, size, stride[, requires_grad, hooks[, metadata]]), v3: (..., hooks, dtype[, metadata]).
  absl::Status PushTensor(const Callable& called, absl::Span<const Ref> args) {
    const bool v3 = called.role == Role::kTensorV3;
    if (args.size() < (v3 ? 7 : 4) || At(args[0]).kind != Kind::kStorage || At(args[1]).kind != Kind::kInt) {
      return Damaged("a tensor without storage and offset");
    }
    if (pickle_.tensors_.size() == kMaxTensors) return Refused("it holds more than 65536 tensors");
    PickleTensor tensor;
    tensor.storage = At(args[0]).index;
    tensor.offset = At(args[1]).integer;
    EIGSVC_ASSIGN_OR_RETURN(tensor.shape, Integers(args[2]));
    EIGSVC_ASSIGN_OR_RETURN(tensor.strides, Integers(args[3]));
    std::optional<ElementType> type = pickle_.storages_[tensor.storage].type;
    if (v3) {
      const Pickle::Node& dtype = At(args[6]);
      if (dtype.kind != Kind::kGlobal) return Damaged("a tensor's element type is no type");
      const Callable& named = globals_[dtype.index];
      if (named.role != Role::kElementType) {
        return absl::FailedPreconditionError(
            absl::StrCat("a tensor has element type ", Quoted(absl::StrCat(named.module, ".", named.name)),
                         ", which this service does not read; convert it to a common one"));
      }
      if (type && type != named.type) return Damaged("a tensor's element type is not its storage's");
      type = named.type;
    }
    if (!type) return Damaged("a tensor without an element type");
    tensor.type = *type;
    const size_t metadata = v3 ? 7 : 6;
    if (args.size() > metadata && At(args[metadata]).kind == Kind::kDict && !Items(args[metadata]).empty()) {
      return Refused("a tensor is a conjugate or negative view; resolve it before saving");
    }
    memory_ += 2 * sizeof(PickleTensor) + 16 * tensor.shape.capacity() + 16 * tensor.strides.capacity();
    pickle_.tensors_.push_back(std::move(tensor));
    Push(NewIndexed(Kind::kTensor, pickle_.tensors_.size() - 1));
    return absl::OkStatus();
  }

  absl::Status PushTypedTensor(absl::Span<const Ref> args) {
    if (args.size() < 3 || At(args[0]).kind != Kind::kGlobal || At(args[1]).kind != Kind::kGlobal ||
        At(args[2]).kind != Kind::kTuple) {
      return Damaged("_rebuild_from_type_v2 without function, type and arguments");
    }
    const Callable function = globals_[At(args[0]).index], type = globals_[At(args[1]).index];
    if (type.role != Role::kTensorType && type.role != Role::kParameter)
      return RefusedCall(type.module, type.name);
    if (function.role != Role::kTensor && function.role != Role::kTensorV3 &&
        function.role != Role::kParameter) {
      return RefusedCall(function.module, function.name);
    }
    return Call(args[0], args[2]);  // not this function again: its role is another
  }

  // (version, shape, type, Fortran order, bytes). An array of another state (of objects; or whose bytes are a
  // call that makes them from text, as Python 3 writes protocol 2) stays empty.
  absl::Status BuildArray(Ref target, Ref state) {
    if (At(state).kind != Kind::kTuple || Items(state).size() != 5) return absl::OkStatus();
    const absl::Span<const Ref> parts = Items(state);
    const Pickle::Node &type = At(parts[2]), &order = At(parts[3]), &bytes = At(parts[4]);
    const bool known_order = order.kind == Kind::kBool || order.kind == Kind::kInt;
    const bool plain_bytes = bytes.kind == Kind::kText || bytes.kind == Kind::kBytes;
    if (type.kind != Kind::kArrayType || !known_order || !plain_bytes) return absl::OkStatus();
    PickleArray& array = pickle_.arrays_[At(target).index];
    EIGSVC_ASSIGN_OR_RETURN(array.shape, Integers(parts[1]));
    array.dtype = type.text;
    array.fortran_order = order.integer != 0;
    array.bytes = bytes.text;
    memory_ += 16 * array.shape.capacity();
    return absl::OkStatus();
  }

  // Sets an instance's state. The state of an OrderedDict is its attributes (_metadata of a state dict); that
  // of a Namespace and its like is what it holds.
  absl::Status Build() {
    EIGSVC_ASSIGN_OR_RETURN(const Ref state, Pop());
    EIGSVC_ASSIGN_OR_RETURN(const Ref target, Top());
    if (At(target).kind == Kind::kOpaque || At(target).kind == Kind::kArrayType) return absl::OkStatus();
    if (At(target).kind == Kind::kArray) return BuildArray(target, state);
    if (At(target).kind == Kind::kGlobal)
      return RefusedCall(globals_[At(target).index].module, globals_[At(target).index].name);
    if (At(target).kind != Kind::kDict) return Refused("it sets the state of what is no dict");
    if (At(state).kind != Kind::kDict || state == target || !Items(target).empty()) return absl::OkStatus();
    const std::vector<Ref> items = Items(state);
    if (items.size() == 2 && At(items[0]).text == "_metadata") return absl::OkStatus();
    for (const Ref item : items) AddItem(target, item);
    return absl::OkStatus();
  }

  const absl::string_view program_;
  size_t position_ = 0, start_ = 0;  // of the next byte, of the current opcode
  size_t memory_ = 0;
  std::vector<Ref> stack_;
  std::vector<size_t> marks_;
  absl::flat_hash_map<uint32_t, Ref> memo_;
  std::vector<Callable> globals_;
  Pickle pickle_;
};

absl::StatusOr<Pickle> Pickle::Run(absl::Span<const std::byte> program, const StopToken& stop) {
  return PickleMachine(program).Run(stop);
}

}  // namespace eigsvc
