#include "tools/moba/help.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <sstream>

namespace moba::cli {
namespace {

constexpr std::size_t kIndent = 2;
constexpr std::size_t kColumn = 32;  // where descriptions start

std::size_t help_width() {
  struct winsize size {};
  if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 100;
  return std::clamp<std::size_t>(size.ws_col, 64, 110);
}

// "-n, --max-tokens, --n-predict INT"
std::string option_spelling(const CLI::Option* option, bool is_positional) {
  std::string text;
  const auto add = [&text](const std::string& name) {
    if (!text.empty()) text += ", ";
    text += name;
  };
  if (is_positional) {
    text = option->get_name(true, false);
  } else {
    for (const std::string& name : option->get_snames()) add("-" + name);
    for (const std::string& name : option->get_lnames()) add("--" + name);
  }
  if (!option->get_option_text().empty()) text += " " + option->get_option_text();
  return text;
}

}  // namespace

std::vector<std::string> wrap(const std::string& text, std::size_t width) {
  std::vector<std::string> lines;
  std::istringstream paragraphs(text);
  for (std::string paragraph; std::getline(paragraphs, paragraph);) {
    std::string line;
    std::istringstream words(paragraph);
    for (std::string word; words >> word;) {
      if (!line.empty() && line.size() + 1 + word.size() > width) {
        lines.push_back(line);
        line.clear();
      }
      line += (line.empty() ? "" : " ") + word;
    }
    lines.push_back(line);
  }
  return lines;
}

std::string command_path(const CLI::App* app) {
  if (app->get_parent() == nullptr) return "moba";
  return command_path(app->get_parent()) + " " + app->get_name();
}

std::string HelpFormatter::make_usage(const CLI::App* app, std::string /*name*/) const {
  std::string usage = "\nUsage: " + command_path(app);
  if (!app->get_subcommands([](const CLI::App*) { return true; }).empty()) usage += " COMMAND";
  for (const CLI::Option* option : app->get_options()) {
    if (option->get_positional()) usage += " " + option->get_name(true, false);
  }
  return usage + " [OPTIONS]\n";
}

std::string HelpFormatter::make_group(std::string group, bool is_positional,
                                      std::vector<const CLI::Option*> options) const {
  std::string text = "\n" + group + ":\n";
  for (const CLI::Option* option : options) text += make_option(option, is_positional);
  return text;
}

std::string HelpFormatter::make_help(const CLI::App* app, std::string name,
                                     CLI::AppFormatMode mode) const {
  std::string text = make_description(app) + make_usage(app, std::move(name));
  text += make_subcommands(app, mode);
  text += make_positionals(app);
  std::vector<std::string> groups = app->get_groups();
  // The group of --help, which every command has first.
  if (!groups.empty()) std::rotate(groups.begin(), groups.begin() + 1, groups.end());
  for (const std::string& group : groups) {
    const std::vector<const CLI::Option*> options =
        app->get_options([&group](const CLI::Option* option) {
          return option->get_group() == group && option->nonpositional();
        });
    if (!group.empty() && !options.empty()) text += make_group(group, false, options);
  }
  return text + "\n" + make_footer(app);
}

std::string HelpFormatter::make_subcommand(const CLI::App* command) const {
  constexpr std::size_t kNameColumn = 14;
  std::string text(kIndent, ' ');
  text += command->get_name();
  text.resize(std::max(text.size() + 1, kNameColumn), ' ');
  return text + command->get_description() + "\n";
}

std::string HelpFormatter::make_option(const CLI::Option* option, bool is_positional) const {
  std::ostringstream out;
  const std::string indent(kColumn, ' ');
  // Long spellings are broken too, so that the descriptions keep their column.
  std::string first(kIndent, ' ');
  first += option_spelling(option, is_positional);
  const std::vector<std::string> text = wrap(option->get_description(), help_width() - kColumn);
  std::size_t next = 0;
  if (first.size() + 2 <= kColumn && !text.empty()) {
    out << first << std::string(kColumn - first.size(), ' ') << text[next++] << "\n";
  } else {
    out << first << "\n";
  }
  for (; next < text.size(); ++next) out << indent << text[next] << "\n";
  return out.str();
}

}  // namespace moba::cli
