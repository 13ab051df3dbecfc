#include "tokenizer/json_view.h"

#include <fstream>
#include <system_error>

#include "tokenizer/utf8.h"

namespace moba {

std::string read_tokenizer_file(const std::filesystem::path& path, std::uintmax_t max_bytes) {
  const std::string name = path.string();
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(status)) fail_in_file(name, "", "no such file");
  if (!std::filesystem::is_regular_file(status)) fail_in_file(name, "", "not a regular file");
  const std::uintmax_t size = std::filesystem::file_size(path, error);
  if (error) fail_in_file(name, "", "cannot read its size: " + error.message());
  if (size == 0) fail_in_file(name, "", "the file is empty");
  if (size > max_bytes) {
    fail_in_file(name, "",
                 "the file has " + std::to_string(size) + " bytes, the most that is read is " +
                     std::to_string(max_bytes));
  }
  std::ifstream in(path, std::ios::binary);
  if (!in) fail_in_file(name, "", "cannot open the file");
  std::string content(static_cast<std::size_t>(size), '\0');
  in.read(content.data(), static_cast<std::streamsize>(size));
  if (static_cast<std::uintmax_t>(in.gcount()) != size) fail_in_file(name, "", "short read");
  return content;
}

std::string printable(std::string_view text, std::size_t max_bytes) {
  std::string out;
  while (!text.empty() && out.size() < max_bytes) {
    const utf8::Decoded next = utf8::decode(text);
    const std::string_view bytes = text.substr(0, static_cast<std::size_t>(next.length));
    const bool control =
        next.code_point < 0x20 || (next.code_point >= 0x7F && next.code_point < 0xA0);
    if (next.valid && !control) {
      out.append(bytes);
    } else {
      constexpr const char* kHex = "0123456789abcdef";
      for (const char c : bytes) {
        const auto byte = static_cast<unsigned char>(c);
        out.append("\\x").append(1, kHex[byte >> 4]).append(1, kHex[byte & 15]);
      }
    }
    text.remove_prefix(bytes.size());
  }
  if (!text.empty()) out.append("...");
  return out;
}

std::string in_double_quotes(std::string_view text) {
  std::string out(1, '"');
  out.append(printable(text)).push_back('"');
  return out;
}

void fail_in_file(const std::string& file, const std::string& key, const std::string& message) {
  throw std::runtime_error(file + ": " + (key.empty() ? "" : key + ": ") + message);
}

std::optional<JsonView> JsonView::find(std::string_view name) const {
  if (!value_->is_object()) fail(std::string("expected an object, got ") + value_->type_name());
  const auto it = value_->find(std::string(name));
  if (it == value_->end() || it->is_null()) return std::nullopt;
  return JsonView(*it, *file_, (key_.empty() ? "" : key_ + ".") + printable(name));
}

JsonView JsonView::at(std::string_view name) const {
  std::optional<JsonView> member = find(name);
  if (!member) fail(in_double_quotes(name) + " is missing");
  return *std::move(member);
}

const std::string& JsonView::as_string() const {
  if (!value_->is_string()) fail(std::string("expected a string, got ") + value_->type_name());
  return value_->get_ref<const std::string&>();
}

bool JsonView::as_bool() const {
  if (!value_->is_boolean())
    fail(std::string("expected true or false, got ") + value_->type_name());
  return value_->get<bool>();
}

std::int64_t JsonView::as_int(std::int64_t min, std::int64_t max) const {
  if (!value_->is_number_integer()) {
    fail(std::string("expected an integer, got ") + value_->type_name());
  }
  const bool huge = value_->is_number_unsigned() && value_->get<std::uint64_t>() > INT64_MAX;
  if (huge || value_->get<std::int64_t>() < min || value_->get<std::int64_t>() > max) {
    fail(value_->dump() + " is outside [" + std::to_string(min) + ", " + std::to_string(max) + "]");
  }
  return value_->get<std::int64_t>();
}

std::vector<JsonView> JsonView::elements() const {
  if (!value_->is_array()) fail(std::string("expected an array, got ") + value_->type_name());
  std::vector<JsonView> out;
  out.reserve(value_->size());
  for (const nlohmann::json& element : *value_) {
    out.emplace_back(element, *file_, key_ + "[" + std::to_string(out.size()) + "]");
  }
  return out;
}

std::vector<std::pair<std::string, JsonView>> JsonView::members() const {
  if (!value_->is_object()) fail(std::string("expected an object, got ") + value_->type_name());
  std::vector<std::pair<std::string, JsonView>> out;
  out.reserve(value_->size());
  for (auto it = value_->begin(); it != value_->end(); ++it) {
    out.emplace_back(it.key(), JsonView(it.value(), *file_,
                                        (key_.empty() ? "" : key_ + ".") + printable(it.key())));
  }
  return out;
}

bool JsonView::bool_or(std::string_view name, bool fallback) const {
  const std::optional<JsonView> member = find(name);
  return member ? member->as_bool() : fallback;
}

std::string JsonView::string_or(std::string_view name, std::string_view fallback) const {
  const std::optional<JsonView> member = find(name);
  return member ? member->as_string() : std::string(fallback);
}

nlohmann::json parse_json_object(const std::string& text, const std::string& file) {
  constexpr int kMaxDepth = 64;
  const auto limit_depth = [&file](int depth, nlohmann::json::parse_event_t, nlohmann::json&) {
    if (depth > kMaxDepth) fail_in_file(file, "", "JSON nested deeper than 64 levels");
    return true;
  };
  try {
    nlohmann::json document = nlohmann::json::parse(text, limit_depth);
    if (!document.is_object()) {
      fail_in_file(file, "", std::string("expected a JSON object, got ") + document.type_name());
    }
    return document;
  } catch (const nlohmann::json::exception& error) {
    fail_in_file(file, "", "not valid JSON: " + printable(error.what(), 200));
  }
}

}  // namespace moba
