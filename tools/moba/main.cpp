// moba: runs checkpoints from the command line.
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <iostream>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "tools/moba/errors.h"
#include "tools/moba/help.h"
#include "tools/moba/launch.h"
#include "tools/moba/log.h"
#include "tools/moba/options.h"
#include "tools/moba/signals.h"

namespace moba::cli {
namespace {

constexpr int kExitPipe = 128 + 13;  // as if SIGPIPE had ended the program

void print_error(std::string message) {
  std::replace(message.begin(), message.end(), '\n', ' ');
  std::cerr << "moba: error: " << message << std::endl;
}

// CLI11's message, with the commands it should have named.
std::string parse_message(const CLI::App& program, const CLI::ParseError& error, int argc,
                          const char* const* argv) {
  const bool has_command = argc > 1 && argv[1][0] != '-';
  if (program.get_subcommands().empty()) {
    std::string names;
    for (const CLI::App* command : program.get_subcommands([](const CLI::App*) { return true; })) {
      names += (names.empty() ? "" : ", ") + command->get_name();
    }
    if (!has_command) return "no command given (commands: " + names + ")";
    return "unknown command " + std::string(argv[1]) + " (commands: " + names + ")";
  }
  const CLI::App* command = &program;
  while (!command->get_subcommands().empty()) command = command->get_subcommands().front();
  std::string message = error.what();
  if (dynamic_cast<const CLI::ArgumentMismatch*>(&error) != nullptr) {
    message = message.substr(0, message.find(':')) + " needs a value";
  }
  const std::vector<std::string> rest = command->remaining();
  if (!rest.empty()) {
    const auto option = std::find_if(rest.begin(), rest.end(), [](const std::string& argument) {
      return argument.size() > 1 && argument.front() == '-';
    });
    message =
        option != rest.end() ? "unknown option " + *option : "unexpected argument " + rest.front();
  }
  return message + " (see " + command_path(command) + " --help)";
}

int run(int argc, const char* const* argv) {
  CLI::App program(
      "Runs language models with full attention and with MoBA, Mixture of Block "
      "Attention.",
      "moba");
  program.formatter(std::make_shared<HelpFormatter>());
  program.set_version_flag("--version", "moba " MOBA_VERSION, "Print the version and exit");
  program.set_help_flag("-h,--help", "Print this help and exit");
  program.get_help_ptr()->group("Options");
  program.require_subcommand(1);
  program.footer(
      "moba COMMAND --help tells the options of a command.\n"
      "Exit codes: 0 done; 1 refused or failed; 2 command line not understood; 130 Ctrl-C; 143 "
      "terminated.");
  const std::array<Command, 8> commands{
      add_generate(program),   add_chat(program),     add_serve(program),   add_batch(program),
      add_perplexity(program), add_tokenize(program), add_inspect(program), add_bench(program)};
  if (argc <= 1) {
    std::cerr << program.help();
    return kExitUsage;
  }
  try {
    program.parse(argc, argv);
  } catch (const CLI::Success& success) {  // --help and --version
    return program.exit(success);
  } catch (const CLI::ParseError& error) {
    print_error(parse_message(program, error, argc, argv));
    return kExitUsage;
  }
  for (const Command& command : commands) {
    if (command.app->parsed()) return command.run();
  }
  return kExitUsage;
}

int guarded_run(int argc, const char* const* argv) {
  try {
    return run(argc, argv);
  } catch (const RankEnded&) {
    return 0;
  } catch (const UsageError& error) {
    print_error(error.what());
    return kExitUsage;
  } catch (const OutputError& error) {
    if (error.closed()) return kExitPipe;
    print_error(error.what());
  } catch (const std::bad_alloc&) {
    print_error("out of memory");
  } catch (const std::exception& error) {
    print_error(error.what());
  } catch (...) {
    print_error("unknown failure");
  }
  return kExitFailure;
}

}  // namespace
}  // namespace moba::cli

int main(int argc, char** argv) {
  moba::cli::install_signal_handlers();
  moba::cli::set_up_log(moba::cli::Verbosity::kNormal);
  // NVLink multicast is not to be used; NCCL reads this when its first group is made.
  ::setenv("NCCL_NVLS_ENABLE", "0", 1);
  // The short name that others gave the option; options of one dash have one letter here.
  std::vector<const char*> arguments(argv, argv + argc);
  for (const char*& argument : arguments) {
    if (std::strcmp(argument, "-tp") == 0) argument = "--tp";
  }
  return moba::cli::guarded_run(argc, arguments.data());
}
