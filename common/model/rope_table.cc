// Rotary tables with every scaling that our families use, computed in double.
//
//   plain    f_i = theta^(-2i/d)
//   linear   f_i / factor
//   llama3   long wavelengths are divided by factor, short ones kept, those between are mixed linearly (Llama 3.1's
//   config) yarn     (arXiv 2309.00071) f_i interpolated where the rotation count over the original context is below
//   beta_slow, kept above beta_fast, a
//            linear ramp between; cos and sin are multiplied by the attention factor. DeepSeek: mscale(factor, mscale)
//            / mscale(factor, mscale_all_dim) with mscale(s, m) = 0.1 m ln s + 1.
#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "common/model/layers.h"
#include "common/tensor/host_memory.h"

namespace grouper {
namespace {

double YarnMscale(double factor, double mscale) { return factor <= 1 ? 1 : 0.1 * mscale * std::log(factor) + 1; }

std::vector<double> Frequencies(const ModelConfig& config, int64_t width) {
  std::vector<double> frequencies;
  for (int64_t i = 0; i < width / 2; ++i) {
    frequencies.push_back(std::pow(config.rope_theta, -2.0 * static_cast<double>(i) / static_cast<double>(width)));
  }
  const RopeScaling& scaling = config.rope_scaling;
  const double original = static_cast<double>(scaling.original_max_position_embeddings);
  switch (scaling.type) {
    case RopeScaling::Type::kNone:
      break;
    case RopeScaling::Type::kLinear:
      for (double& f : frequencies) f /= scaling.factor;
      break;
    case RopeScaling::Type::kLlama3:
      for (double& f : frequencies) {
        const double wavelength = 2 * std::numbers::pi / f;
        if (wavelength < original / scaling.high_freq_factor) continue;
        if (wavelength > original / scaling.low_freq_factor) {
          f /= scaling.factor;
        } else {
          const double smooth =
              (original / wavelength - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor);
          f = (1 - smooth) * f / scaling.factor + smooth * f;
        }
      }
      break;
    case RopeScaling::Type::kYarn: {
      const double w = static_cast<double>(width);
      auto correction = [&](double rotations) {
        return w * std::log(original / (rotations * 2 * std::numbers::pi)) / (2 * std::log(config.rope_theta));
      };
      double low = correction(scaling.beta_fast), high = correction(scaling.beta_slow);
      if (scaling.truncate) {
        low = std::floor(low);
        high = std::ceil(high);
      }
      low = std::max(low, 0.0);
      high = std::min(high, w - 1);
      if (low == high) high += 0.001;
      for (size_t i = 0; i < frequencies.size(); ++i) {
        const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
        frequencies[i] = frequencies[i] / scaling.factor * ramp + frequencies[i] * (1 - ramp);
      }
      break;
    }
  }
  return frequencies;
}

int64_t RotaryWidth(const ModelConfig& config) { return config.mla ? config.mla->qk_rope_head_dim : config.head_dim; }

// Rows [begin, end) of cos and sin, on the host.
void FillRows(const std::vector<double>& frequencies, double factor, int64_t begin, int64_t end, const Tensor& cos, const Tensor& sin) {
  for (int64_t p = begin; p < end; ++p) {
    for (size_t i = 0; i < frequencies.size(); ++i) {
      const double angle = static_cast<double>(p) * frequencies[i];
      const double c = std::cos(angle) * factor, s = std::sin(angle) * factor;
      if (cos.dtype() == DType::kF64) {
        cos.row<double>(p)[i] = c;
        sin.row<double>(p)[i] = s;
      } else {
        cos.row<float>(p)[i] = static_cast<float>(c);
        sin.row<float>(p)[i] = static_cast<float>(s);
      }
    }
  }
}

double AttentionFactor(const RopeScaling& scaling) {
  if (scaling.type != RopeScaling::Type::kYarn) return 1;
  if (scaling.attention_factor) return *scaling.attention_factor;
  if (scaling.mscale > 0 && scaling.mscale_all_dim > 0) {
    return YarnMscale(scaling.factor, scaling.mscale) / YarnMscale(scaling.factor, scaling.mscale_all_dim);
  }
  return YarnMscale(scaling.factor, 1);
}

}  // namespace

RotaryTables::RotaryTables(const ModelConfig& config, DType dtype, Arena& arena)
    : frequencies_(Frequencies(config, RotaryWidth(config))), factor_(AttentionFactor(config.rope_scaling)) {
  const int64_t width = RotaryWidth(config), positions = config.max_position_embeddings;
  const DType type = AccumulatorType(dtype);
  table_.pairing = config.rope_pairing;
  table_.cos = arena.New(type, {positions, width / 2});
  table_.sin = arena.New(type, {positions, width / 2});
  if (!table_.cos.device().is_cuda()) return;
  Arena host;
  const Tensor cos = host.New(type, {positions, width / 2}), sin = host.New(type, {positions, width / 2});
  FillRows(frequencies_, factor_, 0, positions, cos, sin);
  CopyTensor(cos, table_.cos);
  CopyTensor(sin, table_.sin);
  filled_ = positions;
}

void RotaryTables::Fill(int64_t positions) {
  constexpr int64_t kAtOnce = 256;
  if (positions <= filled_.load(std::memory_order_acquire)) return;
  std::lock_guard<std::mutex> lock(mutex_);
  const int64_t begin = filled_.load(std::memory_order_relaxed);
  if (positions <= begin) return;
  const int64_t end = std::min(table_.cos.dim(0), (positions + kAtOnce - 1) / kAtOnce * kAtOnce);
  FillRows(frequencies_, factor_, begin, end, table_.cos, table_.sin);
  filled_.store(end, std::memory_order_release);
}

double ModelConfig::AttentionScale() const {
  const int64_t width = mla ? mla->qk_nope_head_dim + mla->qk_rope_head_dim : head_dim;
  double scale = 1 / std::sqrt(static_cast<double>(width));
  // DeepSeek scales the softmax by mscale_all_dim's factor squared.
  if (mla && rope_scaling.type == RopeScaling::Type::kYarn && rope_scaling.mscale_all_dim > 0) {
    const double mscale = YarnMscale(rope_scaling.factor, rope_scaling.mscale_all_dim);
    scale *= mscale * mscale;
  }
  return scale;
}

}  // namespace grouper
