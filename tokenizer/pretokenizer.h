// The pre-tokenizer of a tokenizer.json: how a text is cut into the words inside which BPE merges.
#pragma once

#include <cstddef>
#include <memory>
#include <string_view>
#include <type_traits>
#include <vector>

#include "tokenizer/json_view.h"

namespace moba {

// A borrowed callable that takes a piece of text; valid only during the call it is passed to.
class PieceSink {
 public:
  template <typename F,
            typename = std::enable_if_t<!std::is_same_v<std::remove_cvref_t<F>, PieceSink>>>
  PieceSink(F&& call)  // NOLINT(google-explicit-constructor,bugprone-forwarding-reference-overload)
      : object_(const_cast<void*>(static_cast<const void*>(&call))),
        invoke_([](void* object, std::string_view piece, bool at_text_start) {
          (*static_cast<std::remove_reference_t<F>*>(object))(piece, at_text_start);
        }) {}
  void operator()(std::string_view piece, bool at_text_start) const {
    invoke_(object_, piece, at_text_start);
  }

 private:
  void* object_;
  void (*invoke_)(void*, std::string_view, bool);
};

// One stage. Immutable; safe from several threads.
class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  // Passes the parts of `piece` (valid UTF-8, not empty) on, in order; empty parts are left out.
  // The parts may lie in memory that lives only during the call. `at_text_start` says that the
  // piece begins where the whole text does.
  virtual void split(std::string_view piece, bool at_text_start, PieceSink sink) const = 0;
};

// The stages of a pre-tokenizer in the order in which they run.
struct PreTokenizerPipeline {
  std::vector<std::unique_ptr<PreTokenizer>> stages;
  // The last stage is ByteLevel: words are sequences of bytes, not of characters. The mapping of
  // bytes to the byte-level alphabet is left to the model, so words hold the text's own bytes.
  bool byte_level = false;

  // Runs all stages and passes every word on.
  void run(std::string_view text, bool at_text_start, PieceSink sink) const;
};

// The pre-tokenizer at `config`: ByteLevel, Split, Digits, Metaspace, Sequence. Throws
// UnsupportedTokenizer (normalizer.h) for another, std::runtime_error for malformed JSON or an
// invalid regular expression.
PreTokenizerPipeline make_pretokenizer(const JsonView& config);

}  // namespace moba
