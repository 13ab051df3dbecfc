// Lines from a person at a terminal, or from a pipe.
#pragma once

#include <memory>
#include <string>

namespace moba::cli {

class LineEditor {
 public:
  enum class Result { kLine, kInterrupted, kEnd };

  virtual ~LineEditor() = default;
  // Asks for a line with `prompt` and waits. kInterrupted: Ctrl-C came meanwhile; what was typed is
  // gone. kEnd: there will be no more.
  virtual Result read(const std::string& prompt, std::string& line) = 0;
};

// Lines of standard input as they are; the prompt is shown where standard input is a terminal.
std::unique_ptr<LineEditor> make_plain_line_editor();

// With keys for editing and lines from before, if the build has a library for that and standard
// input and output are a terminal; else the plain one.
std::unique_ptr<LineEditor> make_line_editor();

}  // namespace moba::cli
