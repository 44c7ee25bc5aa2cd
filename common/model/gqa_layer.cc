// Grouped-query attention: one fused q/k/v projection, optional bias (Qwen2.5) and head norms (Qwen3), RoPE, paged
// attention, o_proj.
#include "common/model/layers.h"
#include "kernels/attention.h"
#include "kernels/elementwise.h"
#include "kernels/rms_norm.h"
#include "kernels/rope_write_kv.h"

namespace grouper {
namespace {

class GqaLayer : public AttentionLayer {
 public:
  GqaLayer(const ModelConfig& config, const std::string& prefix, const kernels::RopeTable& rope, WeightStore& store)
      : rope_(rope),
        heads_(config.num_attention_heads),
        kv_heads_(config.num_key_value_heads),
        width_(config.head_dim),
        eps_(config.rms_norm_eps),
        scale_(config.AttentionScale()) {
    const int64_t q_rows = heads_ * width_, kv_rows = kv_heads_ * width_;
    auto parts = [&](const char* suffix) {
      return std::vector<WeightStore::Part>{{prefix + "q_proj" + suffix, q_rows},
                                            {prefix + "k_proj" + suffix, kv_rows},
                                            {prefix + "v_proj" + suffix, kv_rows}};
    };
    qkv_ = store.AddMatrix(parts(".weight"), config.hidden_size);
    if (config.attention_bias) qkv_bias_ = store.AddVector(parts(".bias"));
    o_ = store.AddMatrix({{prefix + "o_proj.weight", config.hidden_size}}, q_rows);
    if (config.o_bias) o_bias_ = store.AddVector({{prefix + "o_proj.bias", config.hidden_size}});
    if (config.qk_norm) {
      q_norm_ = store.AddVector({{prefix + "q_norm.weight", width_}});
      k_norm_ = store.AddVector({{prefix + "k_norm.weight", width_}});
    }
  }

  void Forward(Pass& pass, int64_t layer, const Tensor& y, const Tensor& delta, AttentionSaved* saved) const override {
    Stream& stream = pass.stream;
    const int64_t t = pass.tokens;
    const DType dtype = y.dtype(), acc = AccumulatorType(dtype);
    Tensor qkv = pass.arena.New(dtype, {t, (heads_ + 2 * kv_heads_) * width_});
    kernels::Linear(stream, y, qkv_->value, &qkv_->packed, ValueOf(qkv_bias_), qkv);
    const Tensor q = Q(qkv), k = K(qkv), v = V(qkv);
    if (q_norm_ != nullptr) {
      Tensor q_rstd, k_rstd;
      if (saved != nullptr) {
        saved->q_normed_input = pass.arena.New(dtype, {t, heads_, width_});
        saved->k_normed_input = pass.arena.New(dtype, {t, kv_heads_, width_});
        kernels::Copy(stream, q, saved->q_normed_input);
        kernels::Copy(stream, k, saved->k_normed_input);
        q_rstd = saved->q_rstd = pass.arena.New(acc, {t * heads_});
        k_rstd = saved->k_rstd = pass.arena.New(acc, {t * kv_heads_});
      }
      kernels::RmsNorm(stream, q, q_norm_->value, eps_, q, q_rstd);
      kernels::RmsNorm(stream, k, k_norm_->value, eps_, k, k_rstd);
    }
    const kernels::PagedKv pages = pass.kv.layer(layer);
    kernels::RopeWriteKv(stream, pages, pass.attention, q, k, v, pass.positions, rope_);
    Tensor out = pass.arena.New(dtype, {t, heads_, width_});
    Tensor lse;
    if (saved != nullptr) lse = pass.arena.New(acc, {t, heads_});
    kernels::Attention(stream, pages, pass.attention, q, scale_, out, lse);
    kernels::Linear(stream, out.Reshape({t, heads_ * width_}), o_->value, &o_->packed, ValueOf(o_bias_), delta);
    if (saved != nullptr) {
      saved->qkv = qkv;
      saved->out = out;
      saved->lse = lse;
    }
  }

  void Backward(Pass& pass, int64_t layer, const Tensor& y, const AttentionSaved& saved, const Tensor& d_delta,
                const Tensor& dy, const GradientSink& gradients) const override {
    Stream& stream = pass.stream;
    const int64_t t = pass.tokens;
    const DType dtype = y.dtype();
    const Arena::Mark mark = pass.arena.mark();
    // delta = out W_o^T
    Tensor d_out = pass.arena.New(dtype, {t, heads_, width_});
    const Tensor d_out_rows = d_out.Reshape({t, heads_ * width_});
    kernels::LinearBackwardInput(stream, d_delta, o_->value, d_out_rows, false);
    kernels::LinearBackwardWeight(stream, d_delta, saved.out.Reshape({t, heads_ * width_}), gradients[o_],
                                  gradients[o_bias_], gradients.accumulate);
    // out = attention(q, k, v)
    Tensor d_qkv = pass.arena.New(dtype, {t, (heads_ + 2 * kv_heads_) * width_});
    const Tensor dq = Q(d_qkv), dk = K(d_qkv);
    kernels::AttentionBackward(stream, pass.kv.layer(layer), pass.attention, Q(saved.qkv), scale_, saved.out,
                               saved.lse, d_out, dq, dk, V(d_qkv));
    kernels::Rope(stream, dq, pass.positions, rope_, true);
    kernels::Rope(stream, dk, pass.positions, rope_, true);
    if (q_norm_ != nullptr) {
      kernels::RmsNormBackward(stream, dq, saved.q_normed_input, q_norm_->value, saved.q_rstd, dq, false,
                               gradients[q_norm_]);
      kernels::RmsNormBackward(stream, dk, saved.k_normed_input, k_norm_->value, saved.k_rstd, dk, false,
                               gradients[k_norm_]);
    }
    // qkv = y W_qkv^T + b
    kernels::LinearBackwardInput(stream, d_qkv, qkv_->value, dy, false);
    kernels::LinearBackwardWeight(stream, d_qkv, y, gradients[qkv_], gradients[qkv_bias_], gradients.accumulate);
    pass.arena.Release(mark);
  }

 private:
  Tensor Q(const Tensor& qkv) const { return qkv.Columns(0, heads_ * width_).Reshape({qkv.dim(0), heads_, width_}); }
  Tensor K(const Tensor& qkv) const {
    return qkv.Columns(heads_ * width_, (heads_ + kv_heads_) * width_).Reshape({qkv.dim(0), kv_heads_, width_});
  }
  Tensor V(const Tensor& qkv) const {
    return qkv.Columns((heads_ + kv_heads_) * width_, (heads_ + 2 * kv_heads_) * width_)
        .Reshape({qkv.dim(0), kv_heads_, width_});
  }

  kernels::RopeTable rope_;
  int64_t heads_, kv_heads_, width_;
  double eps_, scale_;
  Weight *qkv_ = nullptr, *qkv_bias_ = nullptr, *o_ = nullptr, *o_bias_ = nullptr, *q_norm_ = nullptr,
         *k_norm_ = nullptr;
};

}  // namespace

std::unique_ptr<AttentionLayer> MakeGqaLayer(const ModelConfig& config, const std::string& prefix,
                                             const kernels::RopeTable& rope, WeightStore& store) {
  return std::make_unique<GqaLayer>(config, prefix, rope, store);
}

}  // namespace grouper
