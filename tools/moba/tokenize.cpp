// moba tokenize: text to token ids and back.
#include <unistd.h>

#include <memory>
#include <string>
#include <vector>

#include "moba/tokenizer.h"
#include "tools/moba/errors.h"
#include "tools/moba/input.h"
#include "tools/moba/options.h"
#include "tools/moba/output.h"
#include "tools/moba/parse.h"

namespace moba::cli {
namespace {

struct Options {
  explicit Options(CLI::App& app)
      : input(app, /*ids=*/false),
        settings(app, {SettingScope::kModel}),
        output(app, /*log=*/false) {
    decode = add_bool_option(app, "-d,--decode",
                             "The input is token ids, a JSON array or separated by white space; "
                             "print their text",
                             "Input");
    special = add_bool_option(app, "--skip-special-tokens,!--no-skip-special-tokens",
                              "With --decode: leave special tokens such as </s> out (default: on)",
                              "Output");
    pieces = add_bool_option(
        app, "--pieces", "Print one token a line: its id and the vocabulary's spelling", "Output");
    count = add_bool_option(app, "--count", "Print only the number of tokens", "Output");
    pieces->excludes(count);
  }
  InputOptions input;
  SettingOptions settings;
  OutputOptions output;
  CLI::Option* decode;
  CLI::Option* special;
  CLI::Option* pieces;
  CLI::Option* count;
};

// The vocabulary's spelling with control characters escaped, so that it stays on its line.
std::string printable(const std::string& piece) {
  std::string text;
  for (const char c : piece) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) {
      const std::string shown = in_quotes(std::string_view(&c, 1));
      text += shown.substr(1, shown.size() - 2);
    } else {
      text += c;
    }
  }
  return text;
}

std::vector<std::string> piece_names(const TokenizerHandle& tokenizer,
                                     const std::vector<std::int32_t>& ids) {
  std::vector<std::string> names;
  names.reserve(ids.size());
  for (const std::int32_t id : ids) names.push_back(take(tokenizer.token_name(id)));
  return names;
}

void print_pieces(const TokenizerHandle& tokenizer, const std::vector<std::int32_t>& ids) {
  const std::vector<std::string> names = piece_names(tokenizer, ids);
  std::string text;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    text += std::to_string(ids[i]) + "\t" + printable(names[i]) + "\n";
  }
  write_stdout(text);
}

void print_ids(const std::vector<std::int32_t>& ids) {
  std::string text;
  for (const std::int32_t id : ids) text += (text.empty() ? "" : " ") + std::to_string(id);
  write_stdout(text + "\n");
}

int encode(const Options& options, const TokenizerHandle& tokenizer, const InputText& input) {
  const std::vector<std::int32_t> ids = take(tokenizer.encode(
      input.text, options.input.add_special_tokens(), options.input.parse_special()));
  const bool pieces = flag_value(options.pieces, false);
  const bool count = flag_value(options.count, false);
  if (options.output.json()) {
    OrderedJson json{{"num_tokens", ids.size()}};
    if (!count) json["token_ids"] = ids;
    if (pieces) json["pieces"] = piece_names(tokenizer, ids);
    write_json(json);
  } else if (count) {
    write_stdout(std::to_string(ids.size()) + "\n");
  } else if (pieces) {
    print_pieces(tokenizer, ids);
  } else {
    print_ids(ids);
  }
  return 0;
}

int decode(const Options& options, const TokenizerHandle& tokenizer, const InputText& input) {
  std::vector<std::int32_t> ids;
  try {
    ids = parse_token_ids(input.text);
  } catch (const std::invalid_argument& error) {
    throw CommandError(input.name + ": " + error.what());
  }
  if (flag_value(options.pieces, false)) {
    print_pieces(tokenizer, ids);
    return 0;
  }
  if (flag_value(options.count, false)) {
    write_stdout(std::to_string(ids.size()) + "\n");
    return 0;
  }
  const std::string text = take(tokenizer.decode(ids, flag_value(options.special, true)));
  if (options.output.json()) {
    write_json({{"num_tokens", ids.size()}, {"text", text}});
  } else {
    write_stdout(text);
    if (::isatty(STDOUT_FILENO) == 1) write_stdout("\n");
  }
  return 0;
}

int run(const Options& options) {
  Settings settings;
  apply_settings(options.settings.collect(), /*sampling=*/false, settings);
  require_model(settings);
  const InputText input = read_source(options.input.source());
  const TokenizerHandle tokenizer = take(TokenizerHandle::open(settings.engine.model));
  return flag_value(options.decode, false) ? decode(options, tokenizer, input)
                                           : encode(options, tokenizer, input);
}

}  // namespace

Command add_tokenize(CLI::App& program) {
  CLI::App* app = program.add_subcommand("tokenize", "Turn text into token ids and back");
  app->group("Commands");
  const auto options = std::make_shared<Options>(*app);
  app->footer(
      "Examples:\n"
      "  moba tokenize -m DIR -p \"Call me Ishmael.\" --pieces\n"
      "  moba tokenize -m DIR -f book.txt > ids.txt\n"
      "  moba tokenize -m DIR --decode -f ids.txt");
  return {app, [options] { return run(*options); }};
}

}  // namespace moba::cli
