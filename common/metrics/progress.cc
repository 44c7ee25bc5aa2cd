#include "common/metrics/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <mutex>

#include "absl/strings/str_format.h"
#include "common/base/log.h"

namespace grouper {

struct Progress::State {
  std::string label;
  int64_t total;
  Clock& clock;
  absl::Time start, last_draw = absl::InfinitePast();
  bool terminal;
  std::string line;  // what stands in the terminal now

  State(std::string label, int64_t total, Clock& clock)
      : label(std::move(label)), total(total), clock(clock), start(clock.Now()), terminal(isatty(STDERR_FILENO)) {}
};

namespace {

std::mutex drawing;                  // guards `shown` and the terminal's last line
Progress::State* shown = nullptr;

void Erase() {
  if (shown != nullptr && shown->terminal && !shown->line.empty()) std::fputs("\r\x1b[K", stderr);
}
void Draw() {
  if (shown != nullptr && shown->terminal) {
    std::fputs(shown->line.c_str(), stderr);
    std::fflush(stderr);
  }
}

int TerminalWidth() {
  winsize size;
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 20) return size.ws_col;
  return 100;
}

}  // namespace

Progress::Progress(std::string label, int64_t total, Clock& clock)
    : state_(std::make_unique<State>(std::move(label), total, clock)) {
  std::lock_guard<std::mutex> lock(drawing);
  shown = state_.get();
  base::SetLogHook([] { drawing.lock(); Erase(); }, [] { Draw(); drawing.unlock(); });
}

Progress::~Progress() {
  base::SetLogHook(nullptr, nullptr);
  std::lock_guard<std::mutex> lock(drawing);
  if (state_->terminal && !state_->line.empty()) std::fputc('\n', stderr);
  if (shown == state_.get()) shown = nullptr;
}

void Progress::Update(int64_t done, const std::string& note) {
  State& s = *state_;
  const absl::Time now = s.clock.Now();
  const absl::Duration pause = s.terminal ? absl::Milliseconds(100) : absl::Seconds(10);
  if (done < s.total && now - s.last_draw < pause) return;
  if (!s.terminal && s.last_draw == absl::InfinitePast() && done < s.total) {
    s.last_draw = now;  // the first plain line comes after a while
    return;
  }
  s.last_draw = now;
  const double share = s.total > 0 ? std::min(1.0, static_cast<double>(done) / static_cast<double>(s.total)) : 0;
  const absl::Duration spent = now - s.start;
  const std::string left = done >= s.total ? HumanDuration(spent) + " in all"
                           : done > 0      ? HumanDuration(spent * ((1 - share) / share)) + " left"
                                           : "";
  constexpr int kBar = 24;
  std::string bar;
  for (int i = 0; i < kBar; ++i) bar += i < static_cast<int>(std::lround(share * kBar)) ? "█" : "░";
  std::string text = absl::StrFormat("%s %s %d/%d  %s  %s", s.label, bar, done, s.total, note, left);
  std::lock_guard<std::mutex> lock(drawing);
  if (!s.terminal) {
    std::fprintf(stderr, "%s %d/%d  %s  %s\n", s.label.c_str(), static_cast<int>(done), static_cast<int>(s.total), note.c_str(),
                 left.c_str());
    return;
  }
  Erase();
  // A bar's character is three bytes wide in UTF-8 and one column wide on the screen.
  const int columns = static_cast<int>(text.size()) - 2 * kBar;
  if (const int over = columns - (TerminalWidth() - 1); over > 0) text.resize(text.size() - static_cast<size_t>(over));
  s.line = text;
  Draw();
}

void Progress::Hide() {
  std::lock_guard<std::mutex> lock(drawing);
  Erase();
  std::fflush(stderr);
  state_->line.clear();
  state_->last_draw = absl::InfinitePast();
}

std::string HumanDuration(absl::Duration duration) {
  const int64_t seconds = std::max<int64_t>(0, std::llround(absl::ToDoubleSeconds(duration)));
  if (seconds < 60) return absl::StrFormat("%ds", seconds);
  if (seconds < 3600) return absl::StrFormat("%dm%02ds", seconds / 60, seconds % 60);
  return absl::StrFormat("%dh%02dm", seconds / 3600, seconds % 3600 / 60);
}

std::string HumanCount(double count) {
  if (count < 1000) return absl::StrFormat("%.0f", count);
  if (count < 999.5e3) return absl::StrFormat("%.1fk", count / 1e3);
  return absl::StrFormat("%.1fM", count / 1e6);
}

std::string DrawCurve(const std::string& title, const std::vector<double>& x, const std::vector<double>& y, int width, int height) {
  std::string out = title + "\n";
  if (x.empty() || x.size() != y.size() || width < 2 || height < 2) return out;
  const double x0 = x.front(), x1 = std::max(x.back(), x0 + 1e-9);
  double low = *std::min_element(y.begin(), y.end()), high = *std::max_element(y.begin(), y.end());
  if (high - low < 1e-9) high = low + 1;
  std::vector<std::string> cells(static_cast<size_t>(height) * width, " ");
  auto row_of = [&](double value) {
    return std::clamp(static_cast<int>(std::lround((high - value) / (high - low) * (height - 1))), 0, height - 1);
  };
  size_t at = 0;
  for (int column = 0; column < width; ++column) {
    const double here = x0 + (x1 - x0) * column / (width - 1);
    while (at + 1 < x.size() && x[at + 1] <= here) ++at;
    double value = y[at];
    if (at + 1 < x.size() && x[at + 1] > x[at]) value += (y[at + 1] - y[at]) * std::clamp((here - x[at]) / (x[at + 1] - x[at]), 0.0, 1.0);
    cells[static_cast<size_t>(row_of(value)) * width + column] = "·";
  }
  for (size_t i = 0; i < x.size(); ++i) {
    const int column = std::clamp(static_cast<int>(std::lround((x[i] - x0) / (x1 - x0) * (width - 1))), 0, width - 1);
    cells[static_cast<size_t>(row_of(y[i])) * width + column] = "●";
  }
  for (int row = 0; row < height; ++row) {
    const double value = high - (high - low) * row / (height - 1);
    out += absl::StrFormat("%7.3f ┤", value);
    for (int column = 0; column < width; ++column) out += cells[static_cast<size_t>(row) * width + column];
    out += "\n";
  }
  out += "        └";
  for (int column = 0; column < width; ++column) out += "─";
  const std::string first = absl::StrFormat("%g", x0), last = absl::StrFormat("%g", x1);
  out += "\n         " + first + std::string(std::max<int>(1, width - static_cast<int>(first.size() + last.size())), ' ') + last + "\n";
  return out;
}

}  // namespace grouper
