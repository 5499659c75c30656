// The kernels run on torch's own thread pool, which the binding passes in: the number of threads
// is torch's, and a kernel inside somebody else's parallel region stays on its thread.
#pragma once
#include <cstdint>
#include <functional>

namespace memo {

using Range = std::function<void(int64_t begin, int64_t end)>;

struct Threads {
  int64_t count;
  void (*run)(int64_t items, int64_t smallest_share, const Range& body);

  void split(int64_t items, int64_t smallest_share, const Range& body) const {
    if (count == 1 || items <= smallest_share) return body(0, items);
    run(items, smallest_share, body);
  }
};

}  // namespace memo
