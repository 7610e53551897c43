// Every way a pickle can call something, as a bare pickle and inside a file of torch.save: each is refused by
// name, and the command it carries, which would leave a file behind, is not run.
#include <cctype>
#include <filesystem>
#include <ostream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/archive/archive.h"
#include "models/archive/pickle_machine.h"
#include "tests/archive/fixtures.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc::testing {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;

// Relative: a pickle that ran would leave it in the working directory.
constexpr char kCanary[] = "archive_test_canary";
const char* const kCommand = "touch archive_test_canary";

struct Malicious {
  std::string title;
  std::string program;
  std::string named;  // what the refusal must say
};

void PrintTo(const Malicious& sample, std::ostream* out) { *out << sample.title; }

PickleProgram Called(const std::string& module, const std::string& name,
                     const std::string& argument = kCommand) {
  PickleProgram program;
  program.Global(module, name).Text(argument).Raw("\x85R");
  return program;
}

std::vector<Malicious> Samples() {
  std::vector<Malicious> samples;
  const std::pair<const char*, const char*> callables[] = {
      {"os", "system"},
      {"posix", "system"},
      {"nt", "system"},
      {"os", "popen"},
      {"os", "execv"},
      {"os", "remove"},
      {"subprocess", "Popen"},
      {"subprocess", "check_output"},
      {"subprocess", "run"},
      {"pty", "spawn"},
      {"builtins", "eval"},
      {"__builtin__", "eval"},
      {"builtins", "exec"},
      {"builtins", "compile"},
      {"builtins", "__import__"},
      {"builtins", "getattr"},
      {"builtins", "setattr"},
      {"builtins", "open"},
      {"builtins", "map"},
      {"builtins", "globals"},
      {"builtins", "type"},
      {"builtins", "object"},
      {"operator", "attrgetter"},
      {"operator", "methodcaller"},
      {"functools", "partial"},
      {"functools", "reduce"},
      {"importlib", "import_module"},
      {"imp", "load_source"},
      {"runpy", "run_path"},
      {"code", "interact"},
      {"pickle", "loads"},
      {"_pickle", "loads"},
      {"marshal", "loads"},
      {"dill", "loads"},
      {"cloudpickle", "loads"},
      {"types", "FunctionType"},
      {"types", "CodeType"},
      {"copyreg", "_reconstructor"},
      {"copyreg", "__newobj__"},
      {"copy_reg", "_reconstructor"},
      {"torch.storage", "_load_from_bytes"},
      {"torch", "load"},
      {"torch.jit", "load"},
      {"torch.hub", "load"},
      {"torch.serialization", "load"},
      {"torch._utils", "_import_dotted_name"},
      {"torch", "FloatStorage"},
      {"torch", "float32"},
      {"torch.utils.cpp_extension", "load_inline"},
      {"collections", "OrderedDict.fromkeys"},
      {"torch._utils", "_rebuild_tensor_v2.__globals__.get"},
      {"numpy", "load"},
      {"numpy.testing._private.utils", "runstring"},
      {"shutil", "rmtree"},
      {"socket", "create_connection"},
      {"urllib.request", "urlopen"},
      {"ctypes", "CDLL"},
      {"webbrowser", "open"},
      {"asyncio", "run"},
      {"multiprocessing", "Process"},
      {"__main__", "Evil"},
      {"timeit", "timeit"},
      {"pdb", "run"},
      {"cProfile", "run"},
      {"bdb", "Bdb.run"},
      {"site", "execsitecustomize"},
      {"logging.config", "dictConfig"},
  };
  for (const auto& [module, name] : callables) {
    const std::string named = std::string(module) + " " + name;
    samples.push_back({"Reduce " + named, Called(module, name).Finish(), named});
  }
  const auto add = [&](const std::string& title, const PickleProgram& program,
                       const std::string& named = "os system") {
    samples.push_back({title, program.Finish(), named});
  };
  add("StackGlobal", PickleProgram(4).StackGlobal("os", "system").Text(kCommand).Raw("\x85R"));
  add("GlobalFromMemo",
      PickleProgram()
          .Global("os", "system")
          .Raw("q\x05"
               "0h\x05"),
      "POP");
  add("GlobalCalledFromMemo",
      PickleProgram().Raw("(").Global("os", "system").Raw("q\x05th\x05").Text(kCommand).Raw("\x85R"));
  add("NewObject", PickleProgram().Global("__main__", "Evil").Raw(")\x81"), "__main__ Evil");
  add("NewObjectWithKeywords", PickleProgram(4).Global("__main__", "Evil").Raw(")}\x92"), "__main__ Evil");
  add("Instance", PickleProgram().Raw("(").Text(kCommand).Raw("ios\nsystem\n"));
  add("InstanceOfListedClass", PickleProgram().Raw("(icollections\nOrderedDict\n"),
      "collections OrderedDict");
  add("Object", PickleProgram().Raw("(").Global("os", "system").Text(kCommand).Raw("o"));
  add("ObjectOfAValue", PickleProgram().Raw("(").Text("os").Raw("o"), "calls a value");
  add("Extension1", PickleProgram().Raw("\x82\x07").Text(kCommand).Raw("\x85R"), "extension code 7");
  add("Extension2", PickleProgram().Raw(std::string("\x83\x07\x01", 3)).Text(kCommand).Raw("\x85R"),
      "extension code 263");
  add("Extension4", PickleProgram().Raw(std::string("\x84\x07\0\0\x01", 5)), "extension code 16777223");
  add("ArgumentOfAListedCall", PickleProgram()
                                   .Global("collections", "OrderedDict")
                                   .Global("os", "system")
                                   .Text(kCommand)
                                   .Raw("\x85R\x85R"));
  add("ValueOfADict",
      PickleProgram().Dict().Text("weight").Global("os", "system").Text(kCommand).Raw("\x85Rs"));
  add("KeyOfADict",
      PickleProgram().Dict().Global("os", "system").Text(kCommand).Raw("\x85R").Int(1).Raw("s"));
  add("ResultOfACallCalled",
      PickleProgram()
          .Global("builtins", "getattr")
          .Global("os", "path")
          .Text("join")
          .Raw("\x86R")
          .Text(kCommand)
          .Raw("\x85R"),
      "builtins getattr");
  add("OpaqueResultCalled", PickleProgram().Global("pathlib", "Path").Raw(")R").Text(kCommand).Raw("\x85R"),
      "calls a value");
  // What a package of harmless classes imports is not harmless.
  add("ImportOfAListedPackage", Called("pathlib", "os.system"), "pathlib os.system");
  add("ModuleOfAListedPackage", Called("transformers.utils.hub", "subprocess.call"),
      "transformers.utils.hub subprocess.call");
  add("FunctionBesideAConfiguration", Called("transformers.models.bert.configuration_bert", "exec"),
      "configuration_bert exec");
  add("DottedConfiguration", Called("transformers.models.bert.configuration_bert", "os.system.Config"),
      "os.system.Config");
  add("ConfigurationElsewhere", Called("transformers.models.bert.x.configuration_bert", "BertConfig"),
      "x.configuration_bert BertConfig");
  add("OmegaconfResolver", Called("omegaconf", "OmegaConf.register_new_resolver"), "register_new_resolver");
  add("StateOfAClass",
      PickleProgram().Global("os", "system").Dict().Text("__setstate__").Text(kCommand).Raw("sb"));
  add("StateOfATuple", PickleProgram().Raw(")").Text(kCommand).Raw("b"), "state of what is no dict");
  add("TypedTensorFunction", PickleProgram()
                                 .Global("torch._tensor", "_rebuild_from_type_v2")
                                 .Mark()
                                 .Global("os", "system")
                                 .Global("torch", "Tensor")
                                 .Text(kCommand)
                                 .Raw("\x85NtR"));
  add("TypedTensorClass",
      PickleProgram()
          .Global("torch._tensor", "_rebuild_from_type_v2")
          .Mark()
          .Global("torch._utils", "_rebuild_tensor_v2")
          .Global("__main__", "Evil")
          .Raw(")NtR"),
      "__main__ Evil");
  add("TypedTensorOfItself",
      PickleProgram()
          .Global("torch._tensor", "_rebuild_from_type_v2")
          .Raw("q\x01(h\x01")
          .Global("torch", "Tensor")
          .Raw(")NtR"),
      "_rebuild_from_type_v2");
  add("ParameterOfACall", PickleProgram()
                              .Global("torch._utils", "_rebuild_parameter")
                              .Mark()
                              .Global("os", "system")
                              .Text(kCommand)
                              .Raw("\x85R\x88)tR"));
  add("StorageType", PickleProgram()
                         .Mark()
                         .Text("storage")
                         .Global("os", "system")
                         .Text("0")
                         .Text("cpu")
                         .Int(1)
                         .Tuple()
                         .Raw("Q"));
  add("OldestProtocol", PickleProgram().Global("os", "system").Raw("(S'touch archive_test_canary'\ntR"));
  add("TextPersistentId", PickleProgram().Global("os", "system").Raw("Pos.system\n"));
  add("Duplicate", PickleProgram().Global("os", "system").Raw("2"));
  add("NamedAtTheRoot", PickleProgram().Global("os", "system"));
  add("UnicodeLookAlike", PickleProgram(4).StackGlobal("collections\xc2\xa0", "OrderedDict").Raw(")R"),
      "OrderedDict");
  add("ControlCharacters", Called("o\x1b[2Js", "sys\ttem"), "o\\033[2Js sys\\ttem");
  return samples;
}

class MaliciousPickleTest : public ::testing::TestWithParam<Malicious> {};

TEST_P(MaliciousPickleTest, IsRefusedByNameAndNotExecuted) {
  const Malicious& sample = GetParam();
  const auto refused = StatusIs(absl::StatusCode::kInvalidArgument,
                                ::testing::AllOf(HasSubstr(sample.named), AnyOf(HasSubstr("was executed"),
                                                                                HasSubstr("was not executed"),
                                                                                HasSubstr("is refused"))));
  EXPECT_THAT(Pickle::Run(AsBytes(sample.program)), refused);
  EXPECT_THAT(OpenBytes(sample.program), refused);
  EXPECT_THAT(OpenBytes(MakeTorchFile(sample.program)), refused);
  EXPECT_FALSE(std::filesystem::exists(kCanary));
}

std::string SampleName(const ::testing::TestParamInfo<Malicious>& info) {
  std::string name;
  for (const char letter : info.param.title) {
    if (std::isalnum(static_cast<unsigned char>(letter))) name += letter;
  }
  return name + std::to_string(info.index);
}

INSTANTIATE_TEST_SUITE_P(Samples, MaliciousPickleTest, ::testing::ValuesIn(Samples()), SampleName);

TEST(MaliciousPickleTest, ClassesOfConfigurationsAreNotMade) {
  PickleProgram program;
  program.Dict().Text("w").Tensor({.count = 1, .shape = {1}, .strides = {1}}).SetItem();
  int key = 0;
  for (const auto& [module, name] : std::vector<std::pair<const char*, const char*>>{
           {"pathlib", "PosixPath"},
           {"omegaconf.dictconfig", "DictConfig"},
           {"transformers.training_args_seq2seq", "Seq2SeqTrainingArguments"},
           {"transformers.training_args", "TrainingArguments"},
           {"transformers.models.falcon_h1.configuration_falcon_h1", "FalconH1Config"}}) {
    program.Text(std::to_string(key++)).Global(module, name).Raw(")\x81").SetItem();
  }
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive archive,
                              OpenBytes(MakeTorchFile(program.Finish(), {{"0", BytesOf<float>({7})}})));
  EXPECT_EQ(Values(archive.tensors().at("w")), std::vector<double>{7});
}

TEST(MaliciousPickleTest, NamingWithoutCallingIsHarmless) {
  // Lightning keeps activation classes among its hyperparameters; nothing is called, so nothing is refused.
  const std::string program = PickleProgram()
                                  .Dict()
                                  .Text("activation")
                                  .Global("torch.nn.modules.activation", "ReLU")
                                  .SetItem()
                                  .Text("w")
                                  .Tensor({.count = 1, .shape = {1}, .strides = {1}})
                                  .SetItem()
                                  .Finish();
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive archive,
                              OpenBytes(MakeTorchFile(program, {{"0", BytesOf<float>({7})}})));
  EXPECT_EQ(Values(archive.tensors().at("w")), std::vector<double>{7});
  EXPECT_FALSE(archive.settings().Has("activation"));
}

}  // namespace
}  // namespace eigsvc::testing
