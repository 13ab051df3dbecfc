#include "tests/tools/process.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <iterator>
#include <sstream>
#include <stdexcept>
#include <thread>

extern char** environ;  // NOLINT(readability-redundant-declaration)

namespace moba::test {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr auto kTimeout = std::chrono::minutes(5);
constexpr auto kPoll = std::chrono::milliseconds(5);

// Attributes and file actions of a child: default signals, even where the test itself ignores them.
class SpawnSetup {
 public:
  SpawnSetup() {
    posix_spawn_file_actions_init(&actions_);
    posix_spawnattr_init(&attributes_);
    sigset_t defaults;
    sigemptyset(&defaults);
    for (const int signal : {SIGINT, SIGTERM, SIGPIPE}) sigaddset(&defaults, signal);
    posix_spawnattr_setsigdefault(&attributes_, &defaults);
    posix_spawnattr_setflags(&attributes_, POSIX_SPAWN_SETSIGDEF);
  }
  ~SpawnSetup() {
    posix_spawn_file_actions_destroy(&actions_);
    posix_spawnattr_destroy(&attributes_);
  }
  SpawnSetup(const SpawnSetup&) = delete;
  SpawnSetup& operator=(const SpawnSetup&) = delete;

  void open(int fd, const std::string& path, int flags) {
    posix_spawn_file_actions_addopen(&actions_, fd, path.c_str(), flags, 0600);
  }
  void dup(int from, int to) { posix_spawn_file_actions_adddup2(&actions_, from, to); }

  pid_t spawn(const std::vector<std::string>& command) {
    std::vector<std::string> words = command;
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    pid_t pid = 0;
    if (posix_spawn(&pid, argv[0], &actions_, &attributes_, argv.data(), environ) != 0) {
      throw std::runtime_error("cannot start " + command[0]);
    }
    return pid;
  }

 private:
  posix_spawn_file_actions_t actions_;
  posix_spawnattr_t attributes_;
};

// While it lives the children of this process get a limit on the size of files.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(std::int64_t bytes) {
    ::getrlimit(RLIMIT_FSIZE, &old_);
    if (bytes == 0) return;
    struct rlimit limit = old_;
    limit.rlim_cur = static_cast<rlim_t>(bytes);
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() { ::setrlimit(RLIMIT_FSIZE, &old_); }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  struct rlimit old_ {};
};

bool ready_for_signal(const RunOptions& options, const std::string& out, const std::string& err) {
  return options.signal != 0 && fs::file_size(out) >= options.signal_output &&
         read_file(err).find(options.signal_after) != std::string::npos;
}

}  // namespace

TempDir::TempDir() {
  std::string name = (fs::temp_directory_path() / "moba_test_XXXXXX").string();
  if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("cannot make " + name);
  path_ = name;
}

TempDir::~TempDir() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

std::string TempDir::write(const std::string& name, const std::string& bytes) const {
  const fs::path path = path_ / name;
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << bytes;
  return path.string();
}

std::vector<std::string> RunResult::errors() const {
  std::vector<std::string> lines;
  std::istringstream stream(err);
  for (std::string line; std::getline(stream, line);) {
    if (line.find("error") != std::string::npos) lines.push_back(line);
  }
  return lines;
}

RunResult run_moba(const std::vector<std::string>& arguments, const RunOptions& options) {
  const TempDir dir;
  const std::string in = dir.write("in", options.input);
  const std::string out = dir.write("out", "");
  const std::string err = dir.write("err", "");
  SpawnSetup setup;
  setup.open(STDIN_FILENO, in, O_RDONLY);
  setup.open(STDERR_FILENO, err, O_WRONLY | O_APPEND);
  int pipe_ends[2] = {-1, -1};
  if (options.closed_stdout) {
    if (::pipe2(pipe_ends, O_CLOEXEC) != 0) throw std::runtime_error("no pipe");
    ::close(pipe_ends[0]);
    setup.dup(pipe_ends[1], STDOUT_FILENO);
  } else {
    setup.open(STDOUT_FILENO, options.stdout_path.empty() ? out : options.stdout_path,
               O_WRONLY | O_APPEND);
  }
  std::vector<std::string> command{MOBA_PROGRAM};
  command.insert(command.end(), arguments.begin(), arguments.end());
  const FileSizeLimit limit(options.max_file_bytes);
  const pid_t pid = setup.spawn(command);
  if (pipe_ends[1] >= 0) ::close(pipe_ends[1]);

  int status = 0;
  bool signalled = false;
  const Clock::time_point start = Clock::now();
  while (::waitpid(pid, &status, WNOHANG) == 0) {
    if (!signalled && Clock::now() - start >= options.signal_delay &&
        ready_for_signal(options, out, err)) {
      for (int i = 0; i < options.signal_count; ++i) ::kill(pid, options.signal);
      signalled = true;
    }
    if (Clock::now() - start > kTimeout) {
      ::kill(pid, SIGKILL);
      ::waitpid(pid, &status, 0);
      throw std::runtime_error("moba took too long");
    }
    std::this_thread::sleep_for(kPoll);
  }
  RunResult result;
  if (WIFEXITED(status)) result.exit_code = WEXITSTATUS(status);
  if (WIFSIGNALED(status)) result.signal = WTERMSIG(status);
  result.out = read_file(out);
  result.err = read_file(err);
  return result;
}

std::string repo_path(const std::string& path) { return std::string(MOBA_SOURCE_DIR) + "/" + path; }

std::string embedded_model() { return repo_path("configs/models/moba-books-19m"); }

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

}  // namespace moba::test
