# Writes the files of the chat page as string_views: cmake -DOUTPUT=FILE -DFILES=html;css;js -P EmbedChatPage.cmake
list(GET FILES 0 html)
list(GET FILES 1 css)
list(GET FILES 2 js)
set(text "#include \"server/http/chat_page.h\"\n\nnamespace moba::server {\n\n")
foreach(part IN ITEMS Html Css Js)
  string(TOLOWER "${part}" variable)
  # As bytes: a compiler need not take a string of more than 64 KiB.
  file(READ "${${variable}}" bytes HEX)
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "'\\\\x\\1'," bytes "${bytes}")
  string(APPEND text "static constexpr char k${part}Bytes[] = {${bytes}'\\0'};\n"
    "const std::string_view kChat${part}(k${part}Bytes, sizeof(k${part}Bytes) - 1);\n\n")
endforeach()
string(APPEND text "}  // namespace moba::server\n")
file(WRITE "${OUTPUT}" "${text}")
