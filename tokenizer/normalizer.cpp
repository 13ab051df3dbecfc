#include "tokenizer/normalizer.h"

#include "tokenizer/unicode_normal_form.h"

namespace moba {

namespace {

class UnicodeNormalizer final : public Normalizer {
 public:
  explicit UnicodeNormalizer(NormalForm form) : form_(form) {}
  void apply(std::string& text) const override { text = to_normal_form(text, form_); }

 private:
  NormalForm form_;
};

class Prepend final : public Normalizer {
 public:
  explicit Prepend(std::string prefix) : prefix_(std::move(prefix)) {}
  void apply(std::string& text) const override {
    if (!text.empty()) text.insert(0, prefix_);
  }

 private:
  std::string prefix_;
};

class Replace final : public Normalizer {
 public:
  Replace(std::string from, std::string to) : from_(std::move(from)), to_(std::move(to)) {}
  void apply(std::string& text) const override {
    std::size_t found = text.find(from_);
    if (found == std::string::npos) return;
    std::string out;
    out.reserve(text.size() + text.size() / 4);
    std::size_t done = 0;
    while (found != std::string::npos) {
      out.append(text, done, found - done).append(to_);
      done = found + from_.size();
      found = text.find(from_, done);
    }
    out.append(text, done);
    text = std::move(out);
  }

 private:
  std::string from_;
  std::string to_;
};

class NormalizerSequence final : public Normalizer {
 public:
  explicit NormalizerSequence(std::vector<std::unique_ptr<Normalizer>> steps)
      : steps_(std::move(steps)) {}
  void apply(std::string& text) const override {
    for (const std::unique_ptr<Normalizer>& step : steps_) step->apply(text);
  }

 private:
  std::vector<std::unique_ptr<Normalizer>> steps_;
};

}  // namespace

void fail_unsupported(const JsonView& where, std::string_view what, std::string_view kind,
                      std::string_view supported) {
  throw UnsupportedTokenizer(where.file() + ": " + where.key() + ": " + std::string(what) + " \"" +
                             printable(kind) +
                             "\" is not supported (supported: " + std::string(supported) + ")");
}

std::unique_ptr<Normalizer> make_normalizer(const JsonView& config) {
  const std::string& type = config.at("type").as_string();
  if (type == "NFC") return std::make_unique<UnicodeNormalizer>(NormalForm::kNfc);
  if (type == "NFD") return std::make_unique<UnicodeNormalizer>(NormalForm::kNfd);
  if (type == "NFKC") return std::make_unique<UnicodeNormalizer>(NormalForm::kNfkc);
  if (type == "NFKD") return std::make_unique<UnicodeNormalizer>(NormalForm::kNfkd);
  if (type == "Prepend") return std::make_unique<Prepend>(config.at("prepend").as_string());
  if (type == "Replace") {
    const JsonView pattern = config.at("pattern");
    const std::optional<JsonView> fixed = pattern.find("String");
    if (!fixed) fail_unsupported(pattern, "pattern of kind", "Regex", "String");
    if (fixed->as_string().empty()) fixed->fail("the text to replace is empty");
    return std::make_unique<Replace>(fixed->as_string(), config.at("content").as_string());
  }
  if (type == "Sequence") {
    std::vector<std::unique_ptr<Normalizer>> steps;
    for (const JsonView& step : config.at("normalizers").elements()) {
      steps.push_back(make_normalizer(step));
    }
    return std::make_unique<NormalizerSequence>(std::move(steps));
  }
  fail_unsupported(config, "normalizer", type, "NFC, NFD, NFKC, NFKD, Prepend, Replace, Sequence");
}

}  // namespace moba
