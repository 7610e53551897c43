#include "models/tasks/tokenizers/encode_text.h"

#include <algorithm>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"
#include "models/base/status_util.h"

namespace eigsvc {
namespace {

constexpr size_t kTextChunkBytes = size_t{1} << 20;

// Some lines, and what came of them.
struct Chunk {
  std::string text;
  int64_t first_line = 0;
  EncodedText encoded;
  absl::Status status;
};

int64_t CountWords(absl::string_view line) {
  int64_t words = 0;
  bool inside = false;
  for (const char c : line) {
    const bool space = absl::ascii_isspace(static_cast<unsigned char>(c));
    words += !space && !inside;
    inside = !space;
  }
  return words;
}

void EncodeChunk(const std::string& name, const LineRule& rule, Tokenizer::Session& session, Chunk* chunk) {
  int64_t line_number = chunk->first_line;
  for (absl::string_view rest = chunk->text; !rest.empty(); ++line_number) {
    const size_t end = rest.find('\n');
    const absl::string_view line = rest.substr(0, end + 1);  // with its line feed
    rest.remove_prefix(line.size());
    const int64_t words = CountWords(line);
    chunk->encoded.words += words + 1;
    if (words > 0) {
      chunk->status = session.Encode(rule.end_of_line ? line.substr(0, end) : line, &chunk->encoded.ids);
      if (!chunk->status.ok()) {
        chunk->status = Annotate(chunk->status, absl::StrCat(name, ", line ", line_number));
        return;
      }
    }
    if (rule.end_of_line) chunk->encoded.ids.push_back(*rule.end_of_line);
  }
}

}  // namespace

absl::StatusOr<EncodedText> EncodeText(ByteStream& stream, const Tokenizer& tokenizer, const LineRule& rule,
                                       int threads, const StopToken* stop) {
  std::vector<std::unique_ptr<Tokenizer::Session>> sessions;
  for (int i = 0; i < std::max(1, threads); ++i) {
    EIGSVC_ASSIGN_OR_RETURN(auto session, tokenizer.NewSession());
    sessions.push_back(std::move(session));
  }
  LineReader lines(stream);
  EncodedText all;
  for (bool more = true; more;) {
    if (stop != nullptr) EIGSVC_RETURN_IF_ERROR(stop->Check());
    std::vector<Chunk> chunks;
    while (more && chunks.size() < sessions.size()) {
      Chunk chunk;
      chunk.first_line = lines.number() + 1;
      absl::string_view line;
      while (chunk.text.size() < kTextChunkBytes) {
        EIGSVC_ASSIGN_OR_RETURN(more, lines.Next(&line));
        if (!more) break;
        absl::StrAppend(&chunk.text, line, "\n");
      }
      if (!chunk.text.empty()) chunks.push_back(std::move(chunk));
    }
    std::vector<std::thread> workers;
    for (size_t i = 1; i < chunks.size(); ++i) {
      workers.emplace_back([&, i] { EncodeChunk(stream.name(), rule, *sessions[i], &chunks[i]); });
    }
    if (!chunks.empty()) EncodeChunk(stream.name(), rule, *sessions[0], &chunks[0]);
    for (std::thread& worker : workers) worker.join();
    for (Chunk& chunk : chunks) {
      EIGSVC_RETURN_IF_ERROR(chunk.status);
      all.ids.insert(all.ids.end(), chunk.encoded.ids.begin(), chunk.encoded.ids.end());
      all.words += chunk.encoded.words;
    }
    if (static_cast<int64_t>(all.ids.size()) > kMaxEncodedTokens) {
      return absl::ResourceExhaustedError(
          absl::StrCat(stream.name(), " has more than ", kMaxEncodedTokens, " tokens; cut it"));
    }
  }
  return all;
}

}  // namespace eigsvc
