#include "tokenizer/pretokenizer.h"

#include <optional>
#include <string>

#include "tokenizer/normalizer.h"
#include "tokenizer/regex.h"
#include "tokenizer/regex_syntax.h"

namespace moba {

namespace {

// What becomes of a match: a word of its own, nothing, part of the word before or after, or part of
// a run of matches.
enum class SplitBehavior { kIsolated, kRemoved, kMergedWithPrevious, kMergedWithNext, kContiguous };

class Split final : public PreTokenizer {
 public:
  Split(Regex regex, SplitBehavior behavior, bool invert)
      : regex_(std::move(regex)), behavior_(behavior), invert_(invert) {}

  void split(std::string_view piece, bool at_text_start, PieceSink sink) const override {
    const auto emit = [&](std::size_t begin, std::size_t end) {
      if (begin < end) sink(piece.substr(begin, end - begin), at_text_start && begin == 0);
    };
    // A word that is not complete yet, and whether the last span was a match. Spans come in order
    // and cover the piece.
    std::size_t open = 0;
    std::size_t last_end = 0;
    bool last_matched = false;
    const auto span = [&](std::size_t begin, std::size_t end, bool matched) {
      if (invert_) matched = !matched;
      switch (behavior_) {
        case SplitBehavior::kIsolated:
          emit(begin, end);
          break;
        case SplitBehavior::kRemoved:
          if (!matched) emit(begin, end);
          break;
        case SplitBehavior::kMergedWithPrevious:
          // A match joins the span before it unless that was a match too.
          if (!(matched && !last_matched)) {
            emit(open, last_end);
            open = begin;
          }
          break;
        case SplitBehavior::kMergedWithNext:
          // A span that is no match joins the match before it.
          if (!(last_matched && !matched)) {
            emit(open, last_end);
            open = begin;
          }
          break;
        case SplitBehavior::kContiguous:
          if (matched != last_matched) {
            emit(open, last_end);
            open = begin;
          }
          break;
      }
      last_matched = matched;
      last_end = end;
    };
    RegexMatcher matcher(regex_, piece);
    std::size_t done = 0;
    std::size_t begin = 0;
    std::size_t end = 0;
    while (matcher.next(begin, end)) {
      if (done != begin) span(done, begin, false);
      span(begin, end, true);
      done = end;
    }
    if (done != piece.size()) span(done, piece.size(), false);
    const bool keeps_open =
        behavior_ != SplitBehavior::kIsolated && behavior_ != SplitBehavior::kRemoved;
    if (keeps_open) emit(open, last_end);
  }

 private:
  Regex regex_;
  SplitBehavior behavior_;
  bool invert_;
};

// ByteLevel's own pattern, GPT-2's, is a Split after the prefix.
class AddPrefixSpace final : public PreTokenizer {
 public:
  void split(std::string_view piece, bool at_text_start, PieceSink sink) const override {
    if (piece.starts_with(' ')) return sink(piece, at_text_start);
    sink(std::string(" ").append(piece), at_text_start);
  }
};

class Metaspace final : public PreTokenizer {
 public:
  enum class Prepend { kAlways, kFirst, kNever };
  Metaspace(std::string replacement, Prepend prepend, bool split)
      : replacement_(std::move(replacement)), prepend_(prepend), split_(split) {}

  void split(std::string_view piece, bool at_text_start, PieceSink sink) const override {
    std::string text;
    text.reserve(piece.size() + piece.size() / 2 + replacement_.size());
    const bool spaced = piece.starts_with(' ') || piece.starts_with(replacement_);
    if (!spaced &&
        (prepend_ == Prepend::kAlways || (prepend_ == Prepend::kFirst && at_text_start))) {
      text = replacement_;
    }
    for (const char c : piece) {
      if (c == ' ') {
        text.append(replacement_);
      } else {
        text.push_back(c);
      }
    }
    const std::string_view whole = text;
    if (!split_) return sink(whole, at_text_start);
    // A word begins at every replacement character.
    std::size_t begin = 0;
    while (begin < whole.size()) {
      std::size_t end = whole.find(replacement_, begin + 1);
      if (end == std::string_view::npos) end = whole.size();
      sink(whole.substr(begin, end - begin), at_text_start && begin == 0);
      begin = end;
    }
  }

 private:
  std::string replacement_;
  Prepend prepend_;
  bool split_;
};

constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

std::unique_ptr<PreTokenizer> make_split(const std::string& pcre2_pattern, SplitBehavior behavior,
                                         bool invert) {
  return std::make_unique<Split>(Regex(pcre2_pattern), behavior, invert);
}

SplitBehavior parse_behavior(const JsonView& config) {
  const std::string& name = config.as_string();
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  fail_unsupported(config, "behavior", name,
                   "Isolated, Removed, MergedWithPrevious, MergedWithNext, Contiguous");
}

std::unique_ptr<PreTokenizer> parse_split(const JsonView& config) {
  const JsonView pattern = config.at("pattern");
  const SplitBehavior behavior = parse_behavior(config.at("behavior"));
  const bool invert = config.bool_or("invert", false);
  if (const std::optional<JsonView> fixed = pattern.find("String")) {
    if (fixed->as_string().empty()) fixed->fail("the pattern is empty");
    return make_split(quote_for_pcre2(fixed->as_string()), behavior, invert);
  }
  const JsonView regex = pattern.at("Regex");
  try {
    return make_split(oniguruma_to_pcre2(regex.as_string()), behavior, invert);
  } catch (const std::runtime_error& error) {
    regex.fail(error.what());
  }
}

std::unique_ptr<PreTokenizer> parse_metaspace(const JsonView& config) {
  const std::string replacement = config.string_or("replacement", "\xE2\x96\x81");
  if (replacement.empty()) config.fail("\"replacement\" is empty");
  const bool old_default = config.bool_or("add_prefix_space", true);
  const std::string scheme = config.string_or("prepend_scheme", old_default ? "always" : "never");
  auto prepend = Metaspace::Prepend::kAlways;
  if (scheme == "first") {
    prepend = Metaspace::Prepend::kFirst;
  } else if (scheme == "never") {
    prepend = Metaspace::Prepend::kNever;
  } else if (scheme != "always") {
    fail_unsupported(config, "prepend_scheme", scheme, "always, first, never");
  }
  return std::make_unique<Metaspace>(replacement, prepend, config.bool_or("split", true));
}

void add_stages(const JsonView& config, PreTokenizerPipeline& pipeline) {
  if (pipeline.byte_level) {
    config.fail("a pre-tokenizer after ByteLevel would see its alphabet, which is not supported");
  }
  const std::string& type = config.at("type").as_string();
  if (type == "Sequence") {
    for (const JsonView& stage : config.at("pretokenizers").elements()) {
      add_stages(stage, pipeline);
    }
  } else if (type == "ByteLevel") {
    if (config.bool_or("add_prefix_space", true)) {
      pipeline.stages.push_back(std::make_unique<AddPrefixSpace>());
    }
    if (config.bool_or("use_regex", true)) {
      pipeline.stages.push_back(
          make_split(oniguruma_to_pcre2(kGpt2Pattern), SplitBehavior::kIsolated, false));
    }
    pipeline.byte_level = true;
  } else if (type == "Split") {
    pipeline.stages.push_back(parse_split(config));
  } else if (type == "Digits") {
    const bool individual = config.bool_or("individual_digits", false);
    pipeline.stages.push_back(make_split(
        "\\p{N}", individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous, false));
  } else if (type == "Metaspace") {
    pipeline.stages.push_back(parse_metaspace(config));
  } else {
    fail_unsupported(config, "pre-tokenizer", type,
                     "ByteLevel, Split, Digits, Metaspace, Sequence");
  }
}

void run_from(const std::vector<std::unique_ptr<PreTokenizer>>& stages, std::size_t stage,
              std::string_view piece, bool at_text_start, PieceSink sink) {
  if (stage == stages.size()) return sink(piece, at_text_start);
  stages[stage]->split(piece, at_text_start, [&](std::string_view part, bool at_start) {
    run_from(stages, stage + 1, part, at_start, sink);
  });
}

}  // namespace

void PreTokenizerPipeline::run(std::string_view text, bool at_text_start, PieceSink sink) const {
  if (!text.empty()) run_from(stages, 0, text, at_text_start, sink);
}

PreTokenizerPipeline make_pretokenizer(const JsonView& config) {
  PreTokenizerPipeline pipeline;
  add_stages(config, pipeline);
  return pipeline;
}

}  // namespace moba
