// Ranks of one model in several processes, as launchers start them.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "tests/catch.h"
#include "tests/device/socket_ranks.h"
#include "tests/tools/process.h"
#include "tools/moba/errors.h"
#include "tools/moba/launch.h"

namespace moba::test {
namespace {

using Clock = std::chrono::steady_clock;

// moba as rank `rank` of two, its streams in files of `dir`.
pid_t start_rank(int rank, int port, const TempDir& dir, std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), MOBA_PROGRAM);
  const std::string out = (dir.path() / ("out" + std::to_string(rank))).string();
  const std::string err = (dir.path() / ("err" + std::to_string(rank))).string();
  const std::string rank_text = std::to_string(rank);
  const std::string port_text = std::to_string(port);
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  const pid_t pid = ::fork();
  if (pid != 0) return pid;
  ::setenv("RANK", rank_text.c_str(), 1);
  ::setenv("WORLD_SIZE", "2", 1);
  ::setenv("MASTER_ADDR", "127.0.0.1", 1);
  ::setenv("MASTER_PORT", port_text.c_str(), 1);
  if (::freopen(out.c_str(), "w", stdout) == nullptr ||
      ::freopen(err.c_str(), "w", stderr) == nullptr) {
    ::_exit(127);
  }
  ::execv(argv[0], argv.data());
  ::_exit(127);
}

// Its exit code, or 128 + the signal; -1 if it has not ended in time.
int wait_for(pid_t pid, std::chrono::seconds limit) {
  const auto end = Clock::now() + limit;
  int status = 0;
  while (::waitpid(pid, &status, WNOHANG) == 0) {
    if (Clock::now() > end) return -1;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

std::string text_of(const TempDir& dir, const std::string& name) {
  return read_file((dir.path() / name).string());
}

std::vector<std::string> generate(const std::vector<std::string>& more) {
  std::vector<std::string> arguments{
      "generate", "--model", embedded_model(), "-p",          "It was a",
      "--greedy", "--dtype", "float32",        "-t",          "1",
      "-c",       "2048",    "--json",         "--ignore-eos"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

TEST_CASE("two processes generate what one does", "[program]") {
  const TempDir dir;
  const int port = free_port();
  const auto arguments = generate({"-n", "16", "--logprobs", "2", "-tp", "2"});
  const pid_t second = start_rank(1, port, dir, arguments);
  const pid_t first = start_rank(0, port, dir, arguments);
  const int code = wait_for(first, std::chrono::seconds(120));
  INFO(text_of(dir, "err0") << text_of(dir, "err1"));
  REQUIRE(code == 0);
  CHECK(wait_for(second, std::chrono::seconds(10)) == 0);
  CHECK(text_of(dir, "out1").empty());
  const RunResult one = run_moba(generate({"-n", "16"}));
  REQUIRE(one.exit_code == 0);
  const auto ids = [](const std::string& text) {
    return nlohmann::json::parse(text).at("token_ids").get<std::vector<int>>();
  };
  CHECK(ids(text_of(dir, "out0")) == ids(one.out));
}

TEST_CASE("a process that is killed or stops ends the others within 10 s", "[program]") {
  for (const int signal : {SIGKILL, SIGSTOP}) {
    CAPTURE(signal);
    const TempDir dir;
    const std::string config = dir.write("c.json", R"({"parallel": {"rank_timeout_seconds": 3}})");
    const int port = free_port();
    const auto arguments = generate({"-n", "2000", "--tp", "2", "--config", config, "-v"});
    const pid_t second = start_rank(1, port, dir, arguments);
    const pid_t first = start_rank(0, port, dir, arguments);
    const auto end = Clock::now() + std::chrono::seconds(120);
    while (text_of(dir, "err0").find("settings: ") == std::string::npos && Clock::now() < end) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    ::kill(second, signal);
    const int code = wait_for(first, std::chrono::seconds(10));
    ::kill(second, SIGKILL);
    wait_for(second, std::chrono::seconds(10));
    const std::string log = text_of(dir, "err0");
    CAPTURE(log);
    CHECK(code == 1);
    CHECK(log.find(signal == SIGKILL ? "moba: error: rank 1 was lost: "
                                     : "moba: error: rank 1 stalled: ") != std::string::npos);
    CHECK(log.find(", in step ") != std::string::npos);
    if (code == -1) ::kill(first, SIGKILL);
  }
}

TEST_CASE("one process with two ranks", "[program]") {
  const RunResult two = run_moba(generate({"-n", "16", "-tp", "2"}));
  const RunResult one = run_moba(generate({"-n", "16"}));
  CAPTURE(two.err);
  REQUIRE(two.exit_code == 0);
  CHECK(nlohmann::json::parse(two.out).at("token_ids") ==
        nlohmann::json::parse(one.out).at("token_ids"));
  const RunResult four = run_moba(generate({"-n", "16", "-tp", "4"}));
  CHECK(four.exit_code == 1);
  REQUIRE(four.errors().size() == 1);
  CHECK(four.errors()[0].find("does not divide the model's 6 query heads") != std::string::npos);
}

using Variables = std::map<std::string, std::string>;

ParallelOptions launch(const Variables& variables, int tensor_parallel_size = 4) {
  ParallelOptions options;
  options.tensor_parallel_size = tensor_parallel_size;
  cli::read_launch(
      [&](const char* name) {
        const auto it = variables.find(name);
        return it == variables.end() ? nullptr : it->second.c_str();
      },
      options);
  return options;
}

TEST_CASE("what launchers say in the environment") {
  CHECK(launch({}).num_processes == 1);
  // Nothing to do with a model on one rank.
  CHECK(launch({{"RANK", "1"}, {"WORLD_SIZE", "4"}}, 1).num_processes == 1);

  ParallelOptions options = launch(
      {{"RANK", "3"}, {"WORLD_SIZE", "4"}, {"MASTER_ADDR", "node7"}, {"MASTER_PORT", "4321"}});
  CHECK(options.num_processes == 4);
  CHECK(options.process_rank == 3);
  CHECK(options.master_address == "node7");
  CHECK(options.master_port == 4321);

  options = launch({{"OMPI_COMM_WORLD_RANK", "2"},
                    {"OMPI_COMM_WORLD_SIZE", "4"},
                    {"OMPI_COMM_WORLD_LOCAL_SIZE", "4"},
                    {"PMIX_NAMESPACE", "prterun-a-17@1"}});
  CHECK(options.process_rank == 2);
  CHECK(options.master_address == "127.0.0.1");
  CHECK(options.master_port >= 20000);

  const Variables slurm{{"SLURM_PROCID", "1"},
                        {"SLURM_STEP_NUM_TASKS", "4"},
                        {"SLURM_STEP_NUM_NODES", "1"},
                        {"SLURM_JOB_ID", "991"},
                        {"SLURM_STEP_ID", "0"}};
  options = launch(slurm);
  CHECK(options.process_rank == 1);
  Variables other = slurm;
  other["SLURM_PROCID"] = "2";
  CHECK(launch(other).master_port == options.master_port);
  other["SLURM_JOB_ID"] = "992";
  CHECK(launch(other).master_port != options.master_port);

  const auto refused = [](const Variables& variables) {
    try {
      launch(variables);
    } catch (const cli::UsageError& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  CHECK(refused({{"PMI_RANK", "1"}, {"PMI_SIZE", "4"}}).find("set MASTER_ADDR") !=
        std::string::npos);
  CHECK(refused({{"RANK", "one"}, {"WORLD_SIZE", "4"}}).find("RANK is \"one\"") !=
        std::string::npos);
}

}  // namespace
}  // namespace moba::test
