#include "tokenizer/chat_template.h"

#include <stdexcept>
#include <utility>

#include "tokenizer/chat_template/evaluator.h"
#include "tokenizer/chat_template/parser.h"
#include "tokenizer/json_view.h"
#include "tokenizer/utf8.h"

namespace moba {
namespace {

constexpr std::uintmax_t kMaxTemplateBytes = std::uintmax_t{1} << 20;

using jinja::Text;
using jinja::Value;

std::vector<PromptSegment> cut_by_origin(const Text& text) {
  std::vector<PromptSegment> segments;
  for (std::size_t begin = 0; begin < text.size();) {
    const char origin = text.origin[begin];
    std::size_t end = text.origin.find_first_not_of(origin, begin);
    if (end == std::string::npos) end = text.size();
    segments.push_back({text.bytes.substr(begin, end - begin), origin == 't'});
    begin = end;
  }
  return segments;
}

// Cuts what the template prints after the last message's content.
Text cut_after_final_message(Text text, const Value& messages) {
  const Value* content = messages.list().empty() || !messages.list().back().is_dict()
                             ? nullptr
                             : messages.list().back().dict().find("content");
  if (content == nullptr || !content->is_string()) {
    throw std::runtime_error("continue_final_message needs a last message with content");
  }
  std::string wanted = content->text().bytes;
  wanted.erase(wanted.find_last_not_of(" \t\r\n") + 1);
  const std::size_t at = text.bytes.rfind(wanted);
  if (wanted.empty() || at == std::string::npos) {
    throw std::runtime_error("continue_final_message: the template changes the last message");
  }
  return text.substr(0, at + wanted.size());
}

std::string template_source(const nlohmann::json& value, const std::string& file) {
  if (value.is_string()) return value.get<std::string>();
  // A list of {"name", "template"}.
  if (value.is_array()) {
    for (const auto& entry : value) {
      if (entry.is_object() && entry.value("name", "") == "default" && entry.contains("template") &&
          entry.at("template").is_string()) {
        return entry.at("template").get<std::string>();
      }
    }
    fail_in_file(file, "chat_template", "no template is named default");
  }
  fail_in_file(file, "chat_template", "expected a string");
}

}  // namespace

struct ChatTemplate::Impl {
  std::string name;
  std::string bos;
  std::string eos;
  jinja::Block block;
};

ChatTemplate::ChatTemplate(std::string_view source, std::string name, std::string bos,
                           std::string eos)
    : impl_(new Impl{std::move(name), std::move(bos), std::move(eos), {}}) {
  try {
    impl_->block = jinja::parse_template(source);
  } catch (const jinja::TemplateError& error) {
    throw std::runtime_error(impl_->name + ": " + printable(error.what(), 300));
  }
}

ChatTemplate::~ChatTemplate() = default;

std::vector<PromptSegment> ChatTemplate::render(std::string_view messages,
                                                const ChatOptions& options) const {
  try {
    const Value list = jinja::from_json(messages);
    if (!list.is_list()) throw std::runtime_error("the messages are no array");
    const Value more = jinja::from_json(options.variables);
    std::vector<std::pair<std::string, Value>> variables;
    if (more.is_dict()) variables = more.dict().items;
    variables.emplace_back("messages", list);
    variables.emplace_back("add_generation_prompt", options.add_generation_prompt);
    variables.emplace_back("bos_token", Value::literal(impl_->bos));
    variables.emplace_back("eos_token", Value::literal(impl_->eos));
    for (const char* absent : {"tools", "documents"}) {
      if (!more.is_dict() || more.dict().find(absent) == nullptr) {
        variables.emplace_back(absent, jinja::None{});
      }
    }
    Text text = jinja::run_template(impl_->block, variables);
    if (options.continue_final_message) text = cut_after_final_message(std::move(text), list);
    return cut_by_origin(text);
  } catch (const std::runtime_error& error) {
    throw std::runtime_error("chat template: " + printable(error.what(), 300));
  }
}

std::shared_ptr<const ChatTemplate> make_chat_template(std::string_view source,
                                                       const std::string& name,
                                                       const Tokenizer& tokenizer) {
  const auto name_of = [&](const std::optional<TokenId>& id) {
    return id ? tokenizer.token_name(*id) : std::string();
  };
  return std::make_shared<const ChatTemplate>(source, name, name_of(tokenizer.bos_id()),
                                              name_of(tokenizer.eos_id()));
}

std::shared_ptr<const ChatTemplate> load_chat_template(const std::filesystem::path& dir,
                                                       const Tokenizer& tokenizer) {
  const std::filesystem::path own = dir / "chat_template.jinja";
  if (std::filesystem::exists(own)) {
    return make_chat_template(read_tokenizer_file(own, kMaxTemplateBytes), own.string(), tokenizer);
  }
  const std::filesystem::path config = dir / "tokenizer_config.json";
  if (!std::filesystem::exists(config)) return nullptr;
  const std::string file = config.string();
  const nlohmann::json json =
      parse_json_object(read_tokenizer_file(config, kMaxTokenizerFileBytes), file);
  const auto it = json.find("chat_template");
  if (it == json.end() || it->is_null()) return nullptr;
  return make_chat_template(template_source(*it, file), file, tokenizer);
}

std::vector<TokenId> encode_prompt(const Tokenizer& tokenizer,
                                   const std::vector<PromptSegment>& segments) {
  std::string text;
  std::vector<ByteRange> ranges;
  for (const PromptSegment& segment : segments) {
    const std::size_t begin = text.size();
    text += utf8::is_valid(segment.text) ? segment.text : utf8::replace_invalid(segment.text);
    if (segment.from_template) ranges.push_back({begin, text.size()});
  }
  EncodeOptions options;
  options.add_special_tokens = false;
  options.parse_special_tokens = true;
  options.special_ranges = &ranges;
  return tokenizer.encode(text, options);
}

}  // namespace moba
