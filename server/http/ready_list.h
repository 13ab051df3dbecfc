// Wakes the I/O thread once for whatever many requests have to tell it.
#pragma once

#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "server/http/exchange.h"

namespace moba::server {

class ReadyItem {
 public:
  virtual ~ReadyItem() = default;
  // Called on the I/O thread.
  virtual void take_ready() = 0;
};

// add() is thread-safe.
class ReadyList {
 public:
  explicit ReadyList(IoThread& io) : io_(io) {}

  void add(std::shared_ptr<ReadyItem> item) {
    {
      const std::lock_guard lock(mutex_);
      items_.push_back(std::move(item));
      if (items_.size() > 1) return;  // the thread has been told
    }
    io_.post([this] { drain(); });
  }

 private:
  void drain() {
    std::vector<std::shared_ptr<ReadyItem>> items;
    {
      const std::lock_guard lock(mutex_);
      items.swap(items_);
    }
    for (const auto& item : items) item->take_ready();
  }

  IoThread& io_;
  std::mutex mutex_;
  std::vector<std::shared_ptr<ReadyItem>> items_;
};

}  // namespace moba::server
