#include "tools/moba/options.h"

#include <algorithm>
#include <stdexcept>

#include "tools/moba/config_file.h"
#include "tools/moba/errors.h"
#include "tools/moba/parse.h"

namespace moba::cli {
CLI::Option* add_text_option(CLI::App& app, const std::string& flags, const std::string& value,
                             const std::string& help, const std::string& group) {
  CLI::Option* option = app.add_option(
      flags, [](const CLI::results_t&) { return true; }, help);
  return option->type_size(1)
      ->expected(1)
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->option_text(value)
      ->group(group);
}

std::optional<std::string> value_of(const CLI::Option* option) {
  if (option == nullptr || option->count() == 0) return std::nullopt;
  return option->results().back();
}

CLI::Option* add_bool_option(CLI::App& app, const std::string& flags, const std::string& help,
                             const std::string& group) {
  return app.add_flag(flags, help)->group(group);
}

bool flag_value(const CLI::Option* option, bool otherwise) {
  if (option == nullptr || option->count() == 0) return otherwise;
  try {
    return parse_bool(option->results().back());
  } catch (const std::invalid_argument& error) {
    throw UsageError(option->get_name() + ": " + error.what());
  }
}

std::optional<std::int64_t> integer_of(const CLI::Option* option, std::int64_t least) {
  const std::optional<std::string> text = value_of(option);
  if (!text) return std::nullopt;
  try {
    const std::int64_t value = parse_integer(*text);
    if (value < least) {
      throw std::invalid_argument("expected at least " + std::to_string(least) + ", got " + *text);
    }
    return value;
  } catch (const std::invalid_argument& error) {
    throw UsageError(option->get_name() + ": " + error.what());
  }
}

SettingOptions::SettingOptions(CLI::App& app, const std::vector<SettingScope>& scopes) : app_(app) {
  for (const Setting& setting : all_settings()) {
    if (std::find(scopes.begin(), scopes.end(), setting.scope) == scopes.end()) continue;
    const std::string flags(setting.flags);
    const std::string help(setting.help);
    const std::string group(setting.group);
    CLI::Option* option =
        setting.kind == ValueKind::kBool
            ? add_bool_option(app, flags, help, group)
            : add_text_option(app, flags, std::string(setting.value), help, group);
    bound_.push_back({&setting, option});
    if (setting.key == "model") {
      config_ = add_text_option(app, "--config", "FILE",
                                "JSON file of settings; later files win over earlier ones and the "
                                "command line over all; repeatable",
                                group);
    }
  }
}

void SettingOptions::add_greedy() {
  greedy_ = add_bool_option(
      app_, "--greedy", "Take the most probable token each time, as --temperature 0", "Sampling");
  for (const Bound& bound : bound_) {
    if (bound.setting->key == "temperature") greedy_->excludes(bound.option);
  }
}

std::vector<SettingValue> SettingOptions::collect() const {
  std::vector<SettingValue> values;
  if (config_ != nullptr) {
    for (const std::string& path : config_->results()) {
      const std::vector<SettingValue> more = load_config_file(path);
      values.insert(values.end(), more.begin(), more.end());
    }
  }
  for (const Bound& bound : bound_) {
    if (bound.option->count() == 0) continue;
    // The first long name without its aliases: what the message calls it.
    const std::string name = "--" + bound.option->get_lnames().front();
    try {
      values.push_back({std::string(bound.setting->key),
                        value_from_texts(bound.setting->kind, bound.option->results()), name,
                        true});
    } catch (const std::invalid_argument& error) {
      throw UsageError(name + ": " + error.what());
    }
  }
  if (flag_value(greedy_, false)) {
    values.push_back({"temperature", 0.0, "--greedy", true});
  }
  Settings scratch;
  apply_settings(values, /*sampling=*/false, scratch);
  apply_settings(values, /*sampling=*/true, scratch);
  return values;
}

InputOptions::InputOptions(CLI::App& app, bool ids) {
  constexpr const char* kGroup = "Input";
  prompt_ = add_text_option(app, "-p,--prompt", "TEXT",
                            "The text (default: read from standard input)", kGroup);
  file_ =
      add_text_option(app, "-f,--file", "FILE", "File with the text; - is standard input", kGroup);
  file_->excludes(prompt_);
  if (ids) {
    ids_ = add_text_option(app, "--prompt-ids", "FILE",
                           "File with token ids instead, a JSON array or separated by white space; "
                           "they are taken as they are",
                           kGroup);
    ids_->excludes(prompt_)->excludes(file_);
  }
  special_ = add_bool_option(app, "--add-special-tokens,!--no-bos",
                             "Put what the tokenizer adds by itself (BOS) around the text "
                             "(default: on)",
                             kGroup);
  parse_ = add_bool_option(app, "--parse-special",
                           "Read text such as </s> as that special token (default: off)", kGroup);
}

TextSource InputOptions::source() const {
  return {value_of(prompt_), value_of(file_), value_of(ids_)};
}

bool InputOptions::add_special_tokens() const { return flag_value(special_, true); }
bool InputOptions::parse_special() const { return flag_value(parse_, false); }

OutputOptions::OutputOptions(CLI::App& app, bool log, bool json) {
  constexpr const char* kGroup = "Output";
  if (json) json_ = add_bool_option(app, "--json", "Print one JSON object", kGroup);
  if (log) {
    quiet_ = add_bool_option(app, "-q,--quiet", "No log and no progress bar, only errors", kGroup);
    verbose_ = add_bool_option(app, "-v,--verbose", "Log the configuration in effect too", kGroup);
    verbose_->excludes(quiet_);
  }
}

bool OutputOptions::json() const { return flag_value(json_, false); }

Verbosity OutputOptions::verbosity() const {
  if (flag_value(quiet_, false)) return Verbosity::kQuiet;
  return flag_value(verbose_, false) ? Verbosity::kVerbose : Verbosity::kNormal;
}

void require_model(const Settings& settings) {
  if (settings.engine.model.empty()) {
    throw UsageError("no model: give --model DIR, a checkpoint directory");
  }
}

}  // namespace moba::cli
