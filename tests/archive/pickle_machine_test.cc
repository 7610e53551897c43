#include "models/archive/pickle_machine.h"

#include <chrono>
#include <cstring>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/archive/fixtures.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Kind = Pickle::Kind;

absl::Status RunOnly(const std::string& program) { return Pickle::Run(AsBytes(program)).status(); }

TEST(PickleMachineTest, ScalarsOfEveryOpcode) {
  const std::string program = PickleProgram(4)
                                  .Mark()
                                  .Raw("N\x88\x89")
                                  .Raw("K\xff")
                                  .Raw(std::string("M\x34\x12", 3))
                                  .Raw("J\xff\xff\xff\xff")
                                  .Raw(std::string("\x8a\0", 2))
                                  .Raw("\x8a\x01\x80")
                                  .Raw(std::string("\x8a\x05\0\0\0\0\x01", 7))
                                  .Raw(std::string("\x8b\x02\0\0\0\xff\x7f", 7))
                                  .Raw("\x8a\x09\xff\xff\xff\xff\xff\xff\xff\xff\x01")
                                  .Real(-0.1)
                                  .Text("unicode")
                                  .Raw(
                                      "\x8c\x03"
                                      "abc")
                                  .Raw("U\x02xy")
                                  .Raw(std::string("T\x01\0\0\0z", 6))
                                  .Raw(std::string("\x8d\x01\0\0\0\0\0\0\0q", 10))
                                  .Raw("C\x01w")
                                  .Tuple()
                                  .Finish();
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Pickle pickle, Pickle::Run(AsBytes(program)));
  const absl::Span<const Pickle::Ref> items = pickle.items(pickle.root());
  ASSERT_EQ(items.size(), 18);
  const auto node = [&](size_t i) { return pickle.node(items[i]); };
  EXPECT_EQ(node(0).kind, Kind::kNone);
  EXPECT_EQ(node(1).integer, 1);
  EXPECT_EQ(node(2).integer, 0);
  EXPECT_EQ(node(1).kind, Kind::kBool);
  EXPECT_EQ(node(3).integer, 255);
  EXPECT_EQ(node(4).integer, 0x1234);
  EXPECT_EQ(node(5).integer, -1);
  EXPECT_EQ(node(6).integer, 0);
  EXPECT_EQ(node(7).integer, -128);
  EXPECT_EQ(node(8).integer, int64_t{1} << 32);
  EXPECT_EQ(node(9).integer, 32767);
  EXPECT_EQ(node(10).kind, Kind::kOpaque);  // 73 bits: no int64, no error either
  EXPECT_EQ(node(11).real, -0.1);
  EXPECT_EQ(node(12).text, "unicode");
  EXPECT_EQ(node(13).text, "abc");
  EXPECT_EQ(node(14).text, "xy");
  EXPECT_EQ(node(15).text, "z");
  EXPECT_EQ(node(16).text, "q");
  EXPECT_EQ(node(17).kind, Kind::kBytes);
}

TEST(PickleMachineTest, ContainersAndMemo) {
  // {"a": [1, 2, 3], "b": the same list, "c": {1}, "d": (1,)}
  const std::string program = PickleProgram(4)
                                  .Dict()
                                  .Mark()
                                  .Text("a")
                                  .Raw("]\x94(")
                                  .Int(1)
                                  .Int(2)
                                  .Raw("e")
                                  .Int(3)
                                  .Raw("a")
                                  .Text("b")
                                  .Raw(std::string("h\0", 2))
                                  .Text("c")
                                  .Raw("\x8f(")
                                  .Int(1)
                                  .Raw("\x90")
                                  .Text("d")
                                  .Raw("(")
                                  .Int(1)
                                  .Raw("\x91u")
                                  .Finish();
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Pickle pickle, Pickle::Run(AsBytes(program)));
  const absl::Span<const Pickle::Ref> items = pickle.items(pickle.root());
  ASSERT_EQ(items.size(), 8);
  EXPECT_EQ(pickle.node(items[0]).text, "a");
  EXPECT_EQ(items[1], items[3]);
  EXPECT_EQ(pickle.items(items[1]).size(), 3);
  EXPECT_EQ(pickle.items(items[5]).size(), 1);
  EXPECT_EQ(pickle.items(items[7]).size(), 1);
}

TEST(PickleMachineTest, TensorOfUntypedStorageTakesItsTypeFromTheCall) {
  const std::string program = PickleProgram()
                                  .Global("torch._utils", "_rebuild_tensor_v3")
                                  .Mark()
                                  .Mark()
                                  .Text("storage")
                                  .Global("torch.storage", "UntypedStorage")
                                  .Text("7")
                                  .Text("cpu")
                                  .Int(6)
                                  .Tuple()
                                  .Raw("Q")
                                  .Int(1)
                                  .Ints({2})
                                  .Ints({1})
                                  .Raw("\x89)")
                                  .Global("torch", "uint16")
                                  .Tuple()
                                  .Reduce()
                                  .Finish();
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Pickle pickle, Pickle::Run(AsBytes(program)));
  ASSERT_EQ(pickle.node(pickle.root()).kind, Kind::kTensor);
  const PickleTensor& tensor = pickle.tensor(pickle.root());
  EXPECT_EQ(tensor.type, ElementType::kUInt16);
  EXPECT_EQ(tensor.offset, 1);
  EXPECT_THAT(tensor.shape, ElementsAre(2));
  EXPECT_EQ(pickle.storages()[tensor.storage].key, "7");
  EXPECT_EQ(pickle.storages()[tensor.storage].count, 6);
  EXPECT_FALSE(pickle.storages()[tensor.storage].type.has_value());
}

TEST(PickleMachineTest, OrderedDictOfPairsIsADict) {
  const std::string program = PickleProgram()
                                  .Global("collections", "OrderedDict")
                                  .Raw("](")
                                  .Raw("](")
                                  .Text("k")
                                  .Int(5)
                                  .Raw("e")
                                  .Raw("e\x85R")
                                  .Finish();
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Pickle pickle, Pickle::Run(AsBytes(program)));
  ASSERT_EQ(pickle.node(pickle.root()).kind, Kind::kDict);
  ASSERT_EQ(pickle.items(pickle.root()).size(), 2);
  EXPECT_EQ(pickle.node(pickle.items(pickle.root())[1]).integer, 5);
}

TEST(PickleMachineTest, NamespaceIsItsState) {
  const std::string program = PickleProgram()
                                  .Global("argparse", "Namespace")
                                  .Raw(")\x81")
                                  .Dict()
                                  .Text("lr")
                                  .Real(0.5)
                                  .Raw("sb")
                                  .Finish();
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Pickle pickle, Pickle::Run(AsBytes(program)));
  ASSERT_EQ(pickle.items(pickle.root()).size(), 2);
  EXPECT_EQ(pickle.node(pickle.items(pickle.root())[0]).text, "lr");
}

TEST(PickleMachineTest, DamageIsNamedWithItsOffset) {
  const auto damaged = [](const std::string& what) {
    return StatusIs(absl::StatusCode::kDataLoss, HasSubstr(what));
  };
  EXPECT_THAT(RunOnly(""), damaged("byte 0: it ends without STOP"));
  EXPECT_THAT(RunOnly("\x80\x02"), damaged("byte 2: it ends without STOP"));
  EXPECT_THAT(RunOnly("."), damaged("more or less than one value"));
  EXPECT_THAT(RunOnly("NN."), damaged("more or less than one value"));
  EXPECT_THAT(RunOnly("N(."), damaged("more or less than one value"));
  EXPECT_THAT(RunOnly("X\xff\xff\xff\xff"), damaged("cut off"));
  EXPECT_THAT(RunOnly("\x8d\xff\xff\xff\xff\xff\xff\xff\xff"), damaged("cut off"));
  EXPECT_THAT(RunOnly("cos\nsystem"), damaged("name is cut off"));
  EXPECT_THAT(RunOnly("h\x01."), damaged("nothing was memoised as 1"));
  EXPECT_THAT(RunOnly("t"), damaged("no mark"));
  EXPECT_THAT(RunOnly("N(\x85"), damaged("stack is empty"));  // below the mark
  EXPECT_THAT(RunOnly("NNs"), damaged("stack is empty"));
  EXPECT_THAT(RunOnly("NNNs."), damaged("no dict"));
  EXPECT_THAT(RunOnly("}(Nu."), damaged("a key without a value"));
  EXPECT_THAT(RunOnly("NNa."), damaged("no list"));
  EXPECT_THAT(RunOnly("NQ."), damaged("no tuple of five"));
  EXPECT_THAT(RunOnly("NN\x93."), damaged("no text"));
  EXPECT_THAT(RunOnly("\xff."), damaged("unknown opcode 0xff"));
  EXPECT_THAT(RunOnly("\x80\x09N."), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("protocol 9")));
  EXPECT_THAT(RunOnly(PickleProgram().Global("torch._utils", "_rebuild_tensor_v2").Raw(")R").Finish()),
              damaged("without storage"));
  EXPECT_THAT(RunOnly(PickleProgram().Tensor({.shape = std::vector<int64_t>(65, 1)}).Finish()),
              damaged("64 dimensions"));
}

TEST(PickleMachineTest, SpecialTensorsAreRefusedByName) {
  for (const char* const name : {"_rebuild_qtensor", "_rebuild_sparse_tensor", "_rebuild_wrapper_subclass"}) {
    EXPECT_THAT(RunOnly(PickleProgram().Global("torch._utils", name).Raw(")R").Finish()),
                StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr(name)));
  }
  EXPECT_THAT(RunOnly(PickleProgram().Storage("QInt8Storage", "0", 1).Finish()),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("QInt8Storage")));
}

// What a small program may cost: time and memory, both far below what would be noticed.
class PickleBombTest : public ::testing::Test {
 protected:
  static void ExpectCheap(const std::string& program, absl::StatusCode code) {
    const auto start = std::chrono::steady_clock::now();
    EXPECT_EQ(RunOnly(program).code(), code);
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
  }
};

TEST_F(PickleBombTest, SparseMemoIndexAllocatesNothing) {
  ExpectCheap(PickleProgram().Raw("Nr\xff\xff\xff\x7f").Finish(), absl::StatusCode::kOk);
}
TEST_F(PickleBombTest, DeepNestingNeedsNoRecursion) {
  ExpectCheap(std::string(200'000, ']') + std::string(199'999, 'a') + ".", absl::StatusCode::kOk);
  ExpectCheap("N" + std::string(100'000, '\x85') + ".", absl::StatusCode::kOk);
}
TEST_F(PickleBombTest, MillionsOfMarksContainersOrMemoisedValuesAreRefused) {
  ExpectCheap(std::string(8'000'000, '('), absl::StatusCode::kInvalidArgument);
  ExpectCheap(std::string(8'000'000, '}'), absl::StatusCode::kInvalidArgument);
  std::string puts = "N";
  for (uint32_t i = 0; i < 2'000'000; ++i) puts += "r" + std::string(reinterpret_cast<const char*>(&i), 4);
  ExpectCheap(puts, absl::StatusCode::kInvalidArgument);
}
TEST_F(PickleBombTest, RepeatedCallsWithOneLongTupleAreLinear) {
  std::string program = PickleProgram().Raw("(").Raw(std::string(500'000, 'N')).Raw("tq\x01q\x02").Finish();
  program.pop_back();
  program += "(";
  for (int i = 0; i < 300'000; ++i) program += "cpathlib\nPath\nh\x01R";
  ExpectCheap(program + "\x86.", absl::StatusCode::kInvalidArgument);
}
TEST_F(PickleBombTest, CopiesOfALongDictAreCharged) {
  std::string program = "}(" + std::string(200'000, 'N') + "uq\x01(";
  for (int i = 0; i < 100'000; ++i) program += "ccollections\nOrderedDict\nh\x01\x85R";
  ExpectCheap(program, absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace eigsvc::testing
