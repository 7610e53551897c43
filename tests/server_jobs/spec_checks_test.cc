// One line a bad request: its code and the words that name the fault.
#include "server/jobs/spec_checks.h"

#include <functional>
#include <limits>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/fake_store.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc {
namespace {

using ::eigsvc::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kNotFound = absl::StatusCode::kNotFound;

class SpecChecksTest : public ::testing::Test {
 protected:
  SpecChecksTest() {
    catalog_.add_models()->set_name("llama");
    catalog_.add_models()->set_name("mamba2");
    catalog_.mutable_models(1)->set_trainable(true);
    catalog_.add_tasks()->set_name("mqar");
    catalog_.add_tasks()->set_name("next-token");
    catalog_.mutable_tasks(1)->set_needs_data(true);
    known_ = {{"cpu", "cuda:0"}, &catalog_};
    analysis_.mutable_checkpoint()->set_name("a.safetensors");
    analysis_.mutable_task()->set_name("mqar");
    training_.mutable_start()->mutable_initializer()->set_family("mamba2");
    training_.mutable_task()->set_name("mqar");
  }

  worker::v1::GetCatalogResponse catalog_;
  Known known_;
  v1::AnalysisSpec analysis_;
  v1::TrainingSpec training_;
};

TEST_F(SpecChecksTest, PlainSpecsPass) {
  EIGSVC_EXPECT_OK(CheckSpec(analysis_, known_));
  EIGSVC_EXPECT_OK(CheckSpec(training_, known_));
  analysis_.set_examples(10'000'000);
  analysis_.set_batch_size(65'536);
  analysis_.set_dtype("bfloat16");
  analysis_.set_device("cuda:0");
  analysis_.mutable_task()->set_split("train");
  analysis_.mutable_task()->set_parameters_json(R"({"pairs": 4})");
  analysis_.mutable_checkpoint()->set_twin_seed(0);
  analysis_.set_definition("PAPER_COMPAT");
  analysis_.add_departures("E9");
  analysis_.set_gauge("dsf");
  analysis_.set_rotation("state");
  analysis_.set_precision("multi");
  analysis_.mutable_window()->set_length(16);
  EIGSVC_EXPECT_OK(CheckSpec(analysis_, known_));
  analysis_.set_max_steps(17);  // of which the first does not count
  EIGSVC_EXPECT_OK(CheckSpec(analysis_, known_));
}

TEST_F(SpecChecksTest, BadAnalysesNameTheFault) {
  struct Case {
    std::function<void(v1::AnalysisSpec&)> spoil;
    absl::StatusCode code;
    const char* words;
  };
  const Case cases[] = {
      {[](auto& s) { s.clear_checkpoint(); }, kInvalid, "the checkpoint names no source"},
      {[](auto& s) { s.mutable_checkpoint()->set_name(""); }, kInvalid, "checkpoint.name is set but empty"},
      {[](auto& s) { s.mutable_checkpoint()->set_name(std::string(5000, 'a')); }, kInvalid, "4096 bytes"},
      {[](auto& s) { s.mutable_checkpoint()->set_name(std::string("a\0b", 3)); }, kInvalid, "zero byte"},
      {[](auto& s) { s.mutable_checkpoint()->set_sha256("abc"); }, kInvalid, "64 lower-case"},
      {[](auto& s) { s.mutable_checkpoint()->set_sha256(std::string(64, 'A')); }, kInvalid, "64 lower-case"},
      {[](auto& s) { s.mutable_checkpoint()->set_local_path(""); }, kInvalid, "checkpoint.local_path"},
      {[](auto& s) { s.mutable_checkpoint()->set_settings_json("{"); }, kInvalid,
       "settings_json is not a JSON object"},
      {[](auto& s) { s.mutable_checkpoint()->set_settings_json("[1]"); }, kInvalid, "not a JSON object"},
      {[](auto& s) { s.mutable_checkpoint()->set_settings_json(std::string(70'000, ' ')); }, kInvalid,
       "70000 bytes"},
      {[](auto& s) {
         s.mutable_checkpoint()->set_settings_json("{\"a\":" + std::string(1000, '[') +
                                                   std::string(1000, ']') + "}");
       },
       kInvalid, "nests deeper than 32"},
      {[](auto& s) { s.mutable_checkpoint()->mutable_initializer(); }, kInvalid,
       "initializer.family is empty"},
      {[](auto& s) { s.mutable_checkpoint()->mutable_initializer()->set_family("mamba"); }, kNotFound,
       "unknown model family \"mamba\"; known: llama, mamba2"},
      {[](auto& s) { s.mutable_checkpoint()->mutable_initializer()->set_family("llama"); }, kInvalid,
       "has no initialiser"},
      {[](auto& s) {
         s.mutable_checkpoint()->mutable_initializer()->set_family("mamba2");
         s.mutable_checkpoint()->set_twin_seed(1);
       },
       kInvalid, "twin_seed"},
      {[](auto& s) { s.clear_task(); }, kInvalid, "task.name is required"},
      {[](auto& s) { s.mutable_task()->set_name("mqr"); }, kNotFound,
       "known: mqar, next-token; did you mean \"mqar\"?"},
      {[](auto& s) { s.mutable_task()->set_split("validation"); }, kInvalid, "task.split \"validation\""},
      {[](auto& s) { s.mutable_task()->set_parameters_json("42"); }, kInvalid, "task.parameters_json"},
      {[](auto& s) { s.mutable_task()->set_name("next-token"); }, kInvalid, "set task.data"},
      {[](auto& s) { s.mutable_task()->mutable_data(); }, kInvalid, "task.data names no source"},
      {[](auto& s) { s.mutable_task()->mutable_data()->set_sha256("0"); }, kInvalid, "task.data.sha256"},
      {[](auto& s) { s.set_examples(-1); }, kInvalid, "examples -1 is not in [0, 10000000]"},
      {[](auto& s) { s.set_examples(std::numeric_limits<int64_t>::max()); }, kInvalid,
       "examples 9223372036854775807"},
      {[](auto& s) { s.set_batch_size(65'537); }, kInvalid, "batch_size 65537"},
      {[](auto& s) { s.set_max_steps(int64_t{1} << 40); }, kInvalid, "max_steps"},
      {[](auto& s) { s.set_dtype("fp32"); }, kInvalid, "dtype \"fp32\" is none of float32"},
      {[](auto& s) { s.set_device("cuda:7"); }, kNotFound, "unknown device \"cuda:7\"; known: cpu, cuda:0"},
      {[](auto& s) { s.set_definition("exact"); }, kInvalid, "definition \"exact\" is neither EXACT"},
      {[](auto& s) { s.add_departures("E1"); }, kInvalid, "departures E1 belong to definition PAPER_COMPAT"},
      {[](auto& s) {
         s.set_definition("PAPER_COMPAT");
         s.add_departures("E0");
       },
       kInvalid, "departure \"E0\" of PAPER_COMPAT is none of E1 to E10"},
      {[](auto& s) { s.set_gauge("q"); }, kInvalid, "gauge \"q\" is none of dsf, raw"},
      {[](auto& s) { s.mutable_window(); }, kInvalid, "window.length 0 is not in [1, 65536]"},
      {[](auto& s) { s.mutable_window()->set_length(65'537); }, kInvalid, "window.length 65537 is not in"},
      {[](auto& s) {
         s.mutable_window()->set_length(4);
         s.mutable_window()->set_stride(-2);
       },
       kInvalid, "window.stride -2 is not in [1, 2147483647], nor 0"},
      {[](auto& s) {
         s.mutable_window()->set_length(16);
         s.set_max_steps(16);
       },
       kInvalid, "window.length 16 is longer than the 15 steps that count of sequences cut to max_steps 16"},
      {[](auto& s) { s.set_rotation("out"); }, kInvalid, "rotation \"out\" is none of io, state"},
      {[](auto& s) { s.set_precision("quad"); }, kInvalid, "precision \"quad\" is neither double"},
  };
  for (const Case& c : cases) {
    v1::AnalysisSpec spec = analysis_;
    c.spoil(spec);
    EXPECT_THAT(CheckSpec(spec, known_), StatusIs(c.code, HasSubstr(c.words)));
  }
}

// A request that names no data gets what the data root holds, where its task runs only on data.
TEST_F(SpecChecksTest, DataOfTheRootIsChosenWhereATaskNeedsIt) {
  testing::FakeStore store;
  v1::TaskInfo& needs = *catalog_.mutable_tasks(1);
  for (const char* name : {"next-token", "known.safetensors"}) needs.mutable_data()->add_names(name);
  needs.mutable_data()->add_files()->set_name("ids.npy");
  catalog_.mutable_tasks(0)->mutable_data()->add_names("known.safetensors");  // optional there: never chosen
  EXPECT_EQ(FindData(needs, store), "known.safetensors");

  analysis_.mutable_task()->set_name("next-token");
  ChooseData(*analysis_.mutable_task(), known_, store);
  EXPECT_EQ(analysis_.task().data().name(), "known.safetensors");
  EIGSVC_EXPECT_OK(CheckSpec(analysis_, known_));
  analysis_.mutable_task()->mutable_data()->set_name("mine");
  ChooseData(*analysis_.mutable_task(), known_, store);
  EXPECT_EQ(analysis_.task().data().name(), "mine");
  v1::TaskSpec optional;
  optional.set_name("mqar");
  ChooseData(optional, known_, store);
  EXPECT_FALSE(optional.has_data());

  needs.mutable_data()->clear_names();
  needs.mutable_data()->add_names("aclImdb");
  analysis_.mutable_task()->clear_data();
  ChooseData(*analysis_.mutable_task(), known_, store);
  EXPECT_THAT(
      CheckSpec(analysis_, known_),
      StatusIs(kInvalid, AllOf(HasSubstr("data root holds none of aclImdb"), HasSubstr("--data"),
                               HasSubstr("files: ids.npy"), HasSubstr("eigsvc tasks describe next-token"))));
}

TEST_F(SpecChecksTest, BadTrainingsNameTheFault) {
  struct Case {
    std::function<void(v1::TrainingSpec&)> spoil;
    const char* words;
  };
  const double nan = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();
  const Case cases[] = {
      {[](auto& s) { s.clear_start(); }, "the checkpoint names no source"},
      {[](auto& s) { s.set_resume(true); }, "resume needs the \"last\" checkpoint"},
      {[](auto& s) { s.set_steps(0); }, "steps 0 is not in [1,"},
      {[](auto& s) { s.set_steps(int64_t{1} << 50); }, "steps"},
      {[](auto& s) { s.set_batch_size(0); }, "batch_size 0"},
      {[](auto& s) { s.set_warmup_steps(-1); }, "warmup_steps -1"},
      {[](auto& s) { s.set_eval_every(0); }, "eval_every 0"},
      {[](auto& s) { s.set_eval_examples(0); }, "eval_examples 0"},
      {[=](auto& s) { s.set_learning_rate(nan); }, "learning_rate nan"},
      {[=](auto& s) { s.set_learning_rate(inf); }, "learning_rate inf"},
      {[](auto& s) { s.set_learning_rate(-1e-3); }, "learning_rate -0.001"},
      {[=](auto& s) { s.set_final_learning_rate(-inf); }, "final_learning_rate -inf"},
      {[=](auto& s) { s.set_weight_decay(nan); }, "weight_decay nan"},
      {[](auto& s) { s.set_gradient_clip(-1); }, "gradient_clip -1"},
      {[](auto& s) { s.set_recurrence_learning_rate(-1); }, "recurrence_learning_rate -1"},
      {[](auto& s) { s.set_beta2(1.5); }, "beta2 1.5"},
      {[](auto& s) { s.set_beta2(1); }, "beta2 1 is not in [0, 0.999999999999]"},
      {[](auto& s) { s.set_learning_rate(0); }, "learning_rate 0 is not in [1e-12, 10]"},
      {[](auto& s) { s.set_recurrence_learning_rate(1e-13); }, "recurrence_learning_rate 1e-13 is not in"},
      {[=](auto& s) { s.set_recurrence_learning_rate(nan); }, "recurrence_learning_rate nan"},
      {[](auto& s) { s.set_final_learning_rate(0.002); },
       "final_learning_rate 0.002 is above learning_rate 0.001 (the default); lower it"},
      {[](auto& s) {
         s.set_learning_rate(0.25);
         s.set_final_learning_rate(0.5);
       },
       "final_learning_rate 0.5 is above learning_rate 0.25; lower it, or raise learning_rate"},
      {[](auto& s) { s.set_warmup_steps(1001); },
       "warmup_steps 1001 is more than steps 1000 (the default); lower it"},
      {[](auto& s) {
         s.set_steps(10);
         s.set_warmup_steps(11);
       },
       "warmup_steps 11 is more than steps 10; lower it, or raise steps"},
      {[](auto& s) { s.set_stop_at_score(1.5); }, "stop_at_score 1.5"},
  };
  for (const Case& c : cases) {
    v1::TrainingSpec spec = training_;
    c.spoil(spec);
    EXPECT_THAT(CheckSpec(spec, known_), StatusIs(kInvalid, HasSubstr(c.words)));
  }
}

// Unset numbers stand for their defaults, and 0 of the recurrence for the other rate.
TEST_F(SpecChecksTest, TrainingsAtTheEndsOfTheirRangesPass) {
  v1::TrainingSpec low = training_;
  low.set_steps(1);
  low.set_warmup_steps(1);
  low.set_learning_rate(1e-12);
  low.set_final_learning_rate(1e-12);
  low.set_recurrence_learning_rate(0);
  low.set_beta2(0);
  EIGSVC_EXPECT_OK(CheckSpec(low, known_));
  v1::TrainingSpec high = training_;
  high.set_learning_rate(10);
  high.set_final_learning_rate(10);
  high.set_recurrence_learning_rate(10);
  high.set_beta2(1 - 1e-12);
  EIGSVC_EXPECT_OK(CheckSpec(high, known_));
  v1::TrainingSpec unset = training_;
  unset.set_final_learning_rate(0.001);
  unset.set_warmup_steps(1000);
  EIGSVC_EXPECT_OK(CheckSpec(unset, known_));
}

TEST_F(SpecChecksTest, WithoutACatalogNamesAreLeftToTheWorker) {
  known_.catalog = nullptr;
  analysis_.mutable_task()->set_name("not yet known");
  EIGSVC_EXPECT_OK(CheckSpec(analysis_, known_));
}

TEST_F(SpecChecksTest, HostileTextIsEscapedAndCut) {
  analysis_.set_dtype("\n\"\x01" + std::string(10'000, 'x'));
  const absl::Status status = CheckSpec(analysis_, known_);
  EXPECT_LT(status.message().size(), 300u);
  EXPECT_THAT(std::string(status.message()), HasSubstr(R"(\n\"\x01)"));
}

}  // namespace
}  // namespace eigsvc
