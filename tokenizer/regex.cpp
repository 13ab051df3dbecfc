#include "tokenizer/regex.h"

#include <pcre2.h>

#include <algorithm>
#include <array>
#include <limits>
#include <stdexcept>

#include "tokenizer/utf8.h"

namespace moba {

namespace {

template <auto Free>
struct Deleter {
  template <typename T>
  void operator()(T* object) const {
    Free(object);
  }
};
using Code = std::unique_ptr<pcre2_code, Deleter<pcre2_code_free>>;
using CompileContext = std::unique_ptr<pcre2_compile_context, Deleter<pcre2_compile_context_free>>;
using MatchContext = std::unique_ptr<pcre2_match_context, Deleter<pcre2_match_context_free>>;
using MatchData = std::unique_ptr<pcre2_match_data, Deleter<pcre2_match_data_free>>;
using JitStack = std::unique_ptr<pcre2_jit_stack, Deleter<pcre2_jit_stack_free>>;

// Backtracking steps that one match may take: a constant and a multiple of the text, so that a
// search stays linear.
constexpr std::size_t kMatchLimitBase = 10'000'000;
constexpr std::size_t kMatchLimitPerByte = 16;
// The memory an interpreted match may take for backtracking, in KiB.
constexpr std::uint32_t kHeapLimitKib = 1U << 20;
// The JIT's own stack is 32 KiB; a match that needs more gets this one.
constexpr std::size_t kJitStackMin = 64U << 10;
constexpr std::size_t kJitStackMax = 64U << 20;

std::string error_text(int code) {
  std::array<PCRE2_UCHAR, 256> buffer{};
  pcre2_get_error_message(code, buffer.data(), buffer.size());
  return reinterpret_cast<const char*>(buffer.data());
}

}  // namespace

struct Regex::Impl {
  Code code;
  bool jit = false;
};

Regex::Regex(const std::string& pattern) : impl_(std::make_unique<Impl>()) {
  const CompileContext context(pcre2_compile_context_create(nullptr));
  if (!context) throw std::bad_alloc();
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  // Bounds what a hostile pattern can make the compiler do.
  pcre2_set_max_pattern_length(context.get(), 64U << 10);
  pcre2_set_parens_nest_limit(context.get(), 50);
  int error = 0;
  PCRE2_SIZE offset = 0;
  impl_->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                  PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, &error, &offset,
                                  context.get()));
  if (!impl_->code) {
    throw std::runtime_error("invalid regular expression at offset " + std::to_string(offset) +
                             ": " + error_text(error));
  }
  impl_->jit = pcre2_jit_compile(impl_->code.get(), PCRE2_JIT_COMPLETE) == 0;
}

Regex::~Regex() = default;
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;

struct RegexMatcher::Impl {
  const pcre2_code* code = nullptr;
  bool jit = false;
  std::string_view text;
  std::size_t from = 0;
  std::size_t last_end = std::numeric_limits<std::size_t>::max();  // end of the last match
  MatchData data;
  MatchContext context;
  JitStack stack;

  int search() {
    const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
    if (!jit) {
      return pcre2_match(code, subject, text.size(), from, PCRE2_NO_UTF_CHECK, data.get(),
                         context.get());
    }
    int found = pcre2_jit_match(code, subject, text.size(), from, PCRE2_NO_UTF_CHECK, data.get(),
                                context.get());
    if (found == PCRE2_ERROR_JIT_STACKLIMIT && !stack) {
      stack.reset(pcre2_jit_stack_create(kJitStackMin, kJitStackMax, nullptr));
      if (!stack) throw std::bad_alloc();
      pcre2_jit_stack_assign(context.get(), nullptr, stack.get());
      found = pcre2_jit_match(code, subject, text.size(), from, PCRE2_NO_UTF_CHECK, data.get(),
                              context.get());
    }
    return found;
  }
};

RegexMatcher::RegexMatcher(const Regex& regex, std::string_view text)
    : impl_(std::make_unique<Impl>()) {
  impl_->code = regex.impl_->code.get();
  impl_->jit = regex.impl_->jit;
  impl_->text = text.data() == nullptr ? std::string_view("") : text;
  impl_->data.reset(pcre2_match_data_create(1, nullptr));
  impl_->context.reset(pcre2_match_context_create(nullptr));
  if (!impl_->data || !impl_->context) throw std::bad_alloc();
  const std::size_t limit = kMatchLimitBase + kMatchLimitPerByte * text.size();
  pcre2_set_match_limit(impl_->context.get(),
                        static_cast<std::uint32_t>(std::min<std::size_t>(limit, UINT32_MAX)));
  pcre2_set_heap_limit(impl_->context.get(), kHeapLimitKib);
}

RegexMatcher::~RegexMatcher() = default;

bool RegexMatcher::next(std::size_t& begin, std::size_t& end) {
  Impl& m = *impl_;
  while (m.from <= m.text.size()) {
    const int found = m.search();
    if (found == PCRE2_ERROR_NOMATCH) {
      m.from = m.text.size() + 1;
      return false;
    }
    if (found < 0) {
      throw std::runtime_error("the tokenizer's regular expression fails on the text at byte " +
                               std::to_string(m.from) + ": " + error_text(found));
    }
    const PCRE2_SIZE* span = pcre2_get_ovector_pointer(m.data.get());
    begin = span[0];
    end = span[1];
    if (end == begin && m.last_end == end) {
      m.from += m.from < m.text.size()
                    ? static_cast<std::size_t>(utf8::decode(m.text.substr(m.from)).length)
                    : 1;
      continue;
    }
    m.from = end;
    m.last_end = end;
    return true;
  }
  return false;
}

}  // namespace moba
