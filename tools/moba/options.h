// Options that several commands share.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tools/moba/input.h"
#include "tools/moba/log.h"
#include "tools/moba/settings.h"

namespace moba::cli {

// One command of the program: `run` is called after its options were parsed and returns the exit
// code.
struct Command {
  CLI::App* app = nullptr;
  std::function<int()> run;
};

Command add_generate(CLI::App& program);
Command add_chat(CLI::App& program);
Command add_perplexity(CLI::App& program);
Command add_tokenize(CLI::App& program);
Command add_inspect(CLI::App& program);
Command add_batch(CLI::App& program);
Command add_bench(CLI::App& program);
Command add_serve(CLI::App& program);

// An option whose values the command reads afterwards with value_of() or CLI::Option::results().
// `value` is its name in the help. Every use takes exactly one argument, whatever it looks like.
CLI::Option* add_text_option(CLI::App& app, const std::string& flags, const std::string& value,
                             const std::string& help, const std::string& group);
// The last value given, if any.
std::optional<std::string> value_of(const CLI::Option* option);

// A flag; read with CLI::Option::count() or flag_value().
CLI::Option* add_bool_option(CLI::App& app, const std::string& flags, const std::string& help,
                             const std::string& group);
// What the flag says ("--flag", "--flag=false", "--no-flag"), or `otherwise` where it is not given.
bool flag_value(const CLI::Option* option, bool otherwise);

// An integer of at least `least`. Throws UsageError naming the option.
std::optional<std::int64_t> integer_of(const CLI::Option* option, std::int64_t least);

// The flags of the settings of some scopes, and --config.
class SettingOptions {
 public:
  SettingOptions(CLI::App& app, const std::vector<SettingScope>& scopes);

  // Adds --greedy, short for --temperature 0.
  void add_greedy();

  // What the files say, then what the command line says. Every value is checked for its type.
  // Throws UsageError and CommandError.
  std::vector<SettingValue> collect() const;

 private:
  CLI::App& app_;
  CLI::Option* config_ = nullptr;
  CLI::Option* greedy_ = nullptr;
  struct Bound {
    const Setting* setting;
    CLI::Option* option;
  };
  std::vector<Bound> bound_;
};

// -p, -f and --prompt-ids, and how text becomes tokens.
class InputOptions {
 public:
  // `ids`: whether --prompt-ids is among them.
  InputOptions(CLI::App& app, bool ids);

  TextSource source() const;
  bool add_special_tokens() const;
  bool parse_special() const;

 private:
  CLI::Option* prompt_;
  CLI::Option* file_;
  CLI::Option* ids_ = nullptr;
  CLI::Option* special_;
  CLI::Option* parse_;
};

// --json, --quiet and --verbose.
class OutputOptions {
 public:
  // `log`: whether the command has a log, and so --quiet and --verbose. `json`: whether it has a
  // result that --json prints.
  OutputOptions(CLI::App& app, bool log, bool json = true);

  bool json() const;
  Verbosity verbosity() const;

 private:
  CLI::Option* json_ = nullptr;
  CLI::Option* quiet_ = nullptr;
  CLI::Option* verbose_ = nullptr;
};

// Throws UsageError unless a model was given.
void require_model(const Settings& settings);

}  // namespace moba::cli
