// The threads of the ranks that this process runs.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "device/check.h"

namespace moba {

// A step that a rank failed in, or did not come along in: the group of ranks is lost, and with it
// the engine. The line names rank and step.
class RankFailure : public Error {
 public:
  using Error::Error;
};

// One thread a rank, which runs what it is given and then waits for more. Not thread-safe: one
// thread gives work at a time.
class WorkerGroup {
 public:
  using Body = std::function<void(int rank)>;

  // How failures are noticed and what is done about them.
  struct Watch {
    // Ends what ranks have between them, so that those who wait for another stop waiting. Called by
    // any thread, at most once.
    std::function<void(const std::string& why)> abort;
    // A count that grows as the rank gets on. Called by the thread that gives work.
    std::function<std::uint64_t(int rank)> progress;
    // A rank that has not ended and whose count has stood still for as long is taken for stalled;
    // so is the group if no count of any rank grows. Zero: no limit.
    std::chrono::milliseconds limit{0};
  };

  // Ranks first_rank .. first_rank + num_ranks - 1. `may_spin`: idle threads spin briefly before
  // they sleep.
  WorkerGroup(int first_rank, int num_ranks, bool may_spin);
  // Waits for the threads, which are idle or have been told to abort.
  ~WorkerGroup();
  WorkerGroup(const WorkerGroup&) = delete;
  WorkerGroup& operator=(const WorkerGroup&) = delete;

  void set_watch(Watch watch);

  // Runs body(rank) on the thread of each rank and waits until all are done. If one throws, the
  // others are aborted, and its exception is thrown here, as it is.
  void call(const Body& body);

  // The same for a step, with the time limit: throws RankFailure, naming rank and `what`
  // ("step 17"). A rank that still has not come back some seconds after it was aborted can be
  // neither waited for nor left behind with memory that goes away: the process ends with the line
  // on standard error and exit code 70.
  void step(const std::string& what, const Body& body);

 private:
  struct State;
  void run(const std::string& what, const Body& body, bool is_step);

  std::unique_ptr<State> state_;
};

}  // namespace moba
