// The normaliser of a tokenizer.json: what happens to the text before it is cut into words.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/json_view.h"

namespace moba {

// Something in a tokenizer.json that is well formed but that this library does not implement. The
// message names the kind.
class UnsupportedTokenizer : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Throws UnsupportedTokenizer("<file>: <key>: <what> \"<kind>\" is not supported (supported:
// ...)").
[[noreturn]] void fail_unsupported(const JsonView& where, std::string_view what,
                                   std::string_view kind, std::string_view supported);

// Immutable; safe from several threads.
class Normalizer {
 public:
  virtual ~Normalizer() = default;
  // Rewrites `text`, which is valid UTF-8 and not empty.
  virtual void apply(std::string& text) const = 0;
};

// The normaliser at `config`: NFC, NFD, NFKC, NFKD, Prepend, Replace (of a fixed string), Sequence.
// Throws as stated above or, for malformed JSON, std::runtime_error.
std::unique_ptr<Normalizer> make_normalizer(const JsonView& config);

}  // namespace moba
