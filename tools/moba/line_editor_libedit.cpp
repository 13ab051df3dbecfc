#include <histedit.h>
#include <unistd.h>

#include <cstdio>
#include <stdexcept>

#include "tools/moba/line_editor.h"

namespace moba::cli {
namespace {

constexpr int kHistoryLines = 1000;

struct EditLineCloser {
  void operator()(EditLine* edit) const { ::el_end(edit); }
};
struct HistoryCloser {
  void operator()(History* lines) const { ::history_end(lines); }
};

class EditingLineEditor final : public LineEditor {
 public:
  EditingLineEditor() : history_(::history_init()) {
    edit_.reset(::el_init("moba", stdin, stdout, stderr));
    if (edit_ == nullptr || history_ == nullptr) {
      throw std::runtime_error("cannot read from the terminal");
    }
    HistEvent event;
    ::history(history_.get(), &event, H_SETSIZE, kHistoryLines);
    ::history(history_.get(), &event, H_SETUNIQUE, 1);
    ::el_set(edit_.get(), EL_CLIENTDATA, this);
    ::el_set(edit_.get(), EL_PROMPT, &EditingLineEditor::prompt_of);
    ::el_set(edit_.get(), EL_EDITOR, "emacs");
    ::el_set(edit_.get(), EL_HIST, ::history, history_.get());
    // Signals put the terminal back before they go on to the program's handlers.
    ::el_set(edit_.get(), EL_SIGNAL, 1);
    ::el_source(edit_.get(), nullptr);
  }

  Result read(const std::string& prompt, std::string& line) override {
    prompt_ = prompt;
    int count = 0;
    const char* const text = ::el_gets(edit_.get(), &count);
    if (text == nullptr || count <= 0) {
      if (count < 0) {
        ::el_reset(edit_.get());
        return Result::kInterrupted;
      }
      return Result::kEnd;
    }
    line.assign(text, static_cast<std::size_t>(count));
    while (!line.empty() && (line.back() == '\n' || line.back() == '\r')) line.pop_back();
    HistEvent event;
    if (!line.empty()) ::history(history_.get(), &event, H_ENTER, line.c_str());
    return Result::kLine;
  }

 private:
  static char* prompt_of(EditLine* edit) {
    void* self = nullptr;
    ::el_get(edit, EL_CLIENTDATA, &self);
    return static_cast<EditingLineEditor*>(self)->prompt_.data();
  }

  std::string prompt_;
  std::unique_ptr<History, HistoryCloser> history_;
  std::unique_ptr<EditLine, EditLineCloser> edit_;
};

}  // namespace

std::unique_ptr<LineEditor> make_line_editor() {
  if (::isatty(STDIN_FILENO) != 1 || ::isatty(STDOUT_FILENO) != 1) return make_plain_line_editor();
  return std::make_unique<EditingLineEditor>();
}

}  // namespace moba::cli
