// How --help looks.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace moba::cli {

// Groups of options with their descriptions wrapped beside them, to the terminal's width.
class HelpFormatter : public CLI::Formatter {
 public:
  std::string make_help(const CLI::App* app, std::string name,
                        CLI::AppFormatMode mode) const override;
  std::string make_usage(const CLI::App* app, std::string name) const override;
  std::string make_group(std::string group, bool is_positional,
                         std::vector<const CLI::Option*> options) const override;
  std::string make_subcommand(const CLI::App* command) const override;
  std::string make_option(const CLI::Option* option, bool is_positional) const override;
};

// A command with those it stands under: "moba bench latency".
std::string command_path(const CLI::App* app);

// `text` in lines of at most `width` characters, broken at spaces; "\n" breaks a line.
std::vector<std::string> wrap(const std::string& text, std::size_t width);

}  // namespace moba::cli
