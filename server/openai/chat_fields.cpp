#include "server/openai/chat_fields.h"

namespace moba::openai {
namespace {

// Parts of text, joined by newlines. Throws for images and the like.
std::string joined_parts(const Json& parts, const std::string& name) {
  std::string text;
  std::size_t index = 0;
  for (const Json& part : parts) {
    const std::string part_name = name + "[" + std::to_string(index) + "]";
    Fields fields(part, part_name);
    const std::string type = fields.string("type").value_or("text");
    if (type != "text") {
      refuse(part_name + ".type",
             part_name + ".type is " + in_quotes(type) + ", and only text is supported");
    }
    const auto piece = fields.string("text");
    if (!piece) refuse(part_name + ".text", part_name + ".text is missing");
    if (index++ > 0) text += '\n';
    text += *piece;
  }
  return text;
}

Json read_message(const Json& value, const std::string& name) {
  Fields fields(value, name);
  Json message = Json::object();
  const auto role = fields.string("role");
  if (!role) refuse(name + ".role", name + ".role is missing");
  message["role"] = *role;
  const Json* tool_calls = fields.find("tool_calls");
  const Json* content = fields.find("content");
  if (content == nullptr) {
    if (tool_calls == nullptr) refuse(name + ".content", name + ".content is missing");
  } else if (content->is_array()) {
    message["content"] = joined_parts(*content, name + ".content");
  } else if (content->is_string()) {
    message["content"] = *content;
  } else {
    refuse(name + ".content",
           name + ".content must be a string or an array of parts, not " + kind_of(*content));
  }
  if (tool_calls != nullptr) {
    if (!tool_calls->is_array()) {
      refuse(name + ".tool_calls",
             name + ".tool_calls must be an array, not " + kind_of(*tool_calls));
    }
    message["tool_calls"] = *tool_calls;
  }
  for (const char* key : {"name", "tool_call_id", "reasoning_content"}) {
    if (const auto text = fields.string(key)) message[key] = *text;
  }
  return message;
}

}  // namespace

void read_chat_fields(Fields& fields, ChatInput& chat) {
  const Json* messages = fields.find("messages");
  if (messages == nullptr) refuse("messages", "messages is missing");
  if (!messages->is_array()) {
    refuse("messages", "messages must be an array, not " + kind_of(*messages));
  }
  if (messages->empty()) refuse("messages", "messages is empty");
  chat.messages = Json::array();
  for (const Json& message : *messages) {
    const std::string name = "messages[" + std::to_string(chat.messages.size()) + "]";
    chat.messages.push_back(read_message(message, name));
  }
  if (const Json* kwargs = fields.find("chat_template_kwargs")) {
    const Fields check(*kwargs, "chat_template_kwargs");
    chat.template_kwargs = *kwargs;
  }
  chat.continue_final_message = fields.boolean("continue_final_message").value_or(false);
  chat.add_generation_prompt =
      fields.boolean("add_generation_prompt").value_or(!chat.continue_final_message);
  if (chat.add_generation_prompt && chat.continue_final_message) {
    refuse("continue_final_message",
           "continue_final_message and add_generation_prompt exclude each other");
  }
  if (fields.find("chat_template") != nullptr) {
    refuse("chat_template", "chat_template is not accepted in a request");
  }
}

}  // namespace moba::openai
