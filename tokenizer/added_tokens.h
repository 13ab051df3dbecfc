// Added tokens: strings that are found in the text before anything else and become one token each.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/json_view.h"
#include "tokenizer/tokenizer.h"

namespace moba {

struct AddedToken {
  TokenId id = -1;
  std::string content;
  bool special = false;
  bool normalized = false;   // looked for in the normalised text
  bool single_word = false;  // only where no word character stands beside it
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // takes the white space after it
};

// An entry of "added_tokens" (tokenizer.json) or "added_tokens_decoder" (tokenizer_config.json);
// the id is not read.
AddedToken parse_added_token(const JsonView& entry);

// Finds added tokens in a text: leftmost, then longest. Immutable; safe from several threads.
class AddedTokenMatcher {
 public:
  // A stretch of the text: a token, or (id < 0) text between tokens. Stretches are in order, cover
  // the text and are not empty.
  struct Segment {
    TokenId id;
    std::size_t begin;
    std::size_t end;
  };

  AddedTokenMatcher() = default;
  // Looks for `content` of each token. Tokens with empty content are left out; of equal contents
  // the first counts.
  explicit AddedTokenMatcher(const std::vector<AddedToken>& tokens);

  bool empty() const { return tokens_.empty(); }

  // Cost: the length of the text times at most the longest content; tokens that start with a rare
  // byte cost nothing elsewhere. A special token is passed over unless `parse_special_tokens`.
  // White space that a token has taken is not looked at again (Hugging Face's tokenizers finds a
  // token of spaces in it a second time).
  // `special_ranges` as in EncodeOptions.
  std::vector<Segment> find(std::string_view text, bool parse_special_tokens,
                            const std::vector<ByteRange>* special_ranges = nullptr) const;

 private:
  struct Node {
    std::int32_t token = -1;       // index into tokens_ of the content that ends here
    std::int32_t first_edge = -1;  // edges of a node are a linked list
  };
  struct Edge {
    unsigned char byte;
    std::int32_t target;
    std::int32_t next;
  };
  std::int32_t child(std::int32_t node, unsigned char byte) const;
  std::int32_t longest_match(std::string_view text) const;

  std::vector<AddedToken> tokens_;
  std::vector<Node> nodes_;
  std::vector<Edge> edges_;
  std::array<std::int32_t, 256> roots_{};  // child of the root by byte, -1 = none
};

}  // namespace moba
