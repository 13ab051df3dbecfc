// The files of the chat page (server/http/page), in the program.
#pragma once

#include <string_view>

namespace moba::server {

extern const std::string_view kChatHtml;
extern const std::string_view kChatCss;
extern const std::string_view kChatJs;

}  // namespace moba::server
