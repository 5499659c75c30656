// torch.ops.memo.memory_attention*. Schemas, fake kernels, autograd and the checks of arguments
// live in memo_dist/fusion/ops: the ops exist with or without this library.
#include <tuple>

#include "bindings/backend.h"
#include "memo/memory_attention.h"
#ifdef MEMO_CUDA
#include "cuda/memory_attention.h"
#else
#include "cpu/memory_attention.h"
#endif

namespace memo {
namespace {

#ifdef MEMO_CUDA
#define MEMO_RUN(call, kernel, ...)                                              \
  do {                                                                           \
    const int error = cuda::kernel(call.in, __VA_ARGS__);                        \
    STD_TORCH_CHECK(error == 0, "memo: " #kernel ": ", cuda::error_text(error)); \
  } while (false)
#else
#define MEMO_RUN(call, kernel, ...)                                 \
  (call.real() == ScalarType::Double                                \
       ? cpu::kernel<double>(call.in, __VA_ARGS__, torch_threads()) \
       : cpu::kernel<float>(call.in, __VA_ARGS__, torch_threads()))
#endif

Planes planes_of(const Tensor& t) {
  STD_TORCH_CHECK(t.dim() == 4, "memo: query, key and value must have four dimensions");
  Planes planes{t.const_data_ptr(), {}, dtype_of(t.scalar_type())};
  for (int i = 0; i < 4; ++i) planes.strides[i] = t.stride(i);
  return planes;
}

// Gate and presence, which every op of the family reads, as contiguous arrays that live as long.
class Gates {
 public:
  Gates(const Tensor& like, const Tensor& gate, const Tensor& present)
      : like_(like),
#ifdef MEMO_CUDA
        device_(like_),
#endif
        gate_(torch::stable::contiguous(gate)),
        present_(torch::stable::contiguous(present)) {
    STD_TORCH_CHECK(real() == ScalarType::Float || real() == ScalarType::Double,
                    "memo: gate must be float32 or float64");
    STD_TORCH_CHECK(present.scalar_type() == ScalarType::Bool, "memo: present must be bool");
#ifdef MEMO_CUDA
    STD_TORCH_CHECK(real() == ScalarType::Float, "memo: float64 is for the CPU only");
#endif
  }

  ScalarType real() const { return gate_.scalar_type(); }
  const void* gate() const { return gate_.const_data_ptr(); }
  const bool* present() const { return static_cast<const bool*>(present_.const_data_ptr()); }
  void* stream() const {
#ifdef MEMO_CUDA
    return device_.stream;
#else
    return nullptr;
#endif
  }
  Tensor empty(std::vector<int64_t> shape, ScalarType type) const {
    return memo::empty(like_, std::move(shape), type);
  }

 private:
  Tensor like_;
#ifdef MEMO_CUDA
  OnDevice device_;
#endif
  Tensor gate_, present_;
};

struct AttentionCall : Gates {
  AttentionCall(const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& gate,
                const Tensor& present, double scale)
      : Gates(query, gate, present) {
    in.query = planes_of(query), in.key = planes_of(key), in.value = planes_of(value);
    in.gate = Gates::gate(), in.present = Gates::present(), in.stream = stream();
    in.scale = scale, in.batch = query.size(0), in.heads = query.size(1);
    in.tokens = query.size(2), in.width = query.size(3);
    in.groups = key.size(1), in.slots = key.size(2);
    STD_TORCH_CHECK(in.groups > 0 && in.heads % in.groups == 0,
                    "memo: heads must be a multiple of groups");
  }

  Tensor rows() const { return empty({in.batch, in.heads, in.tokens}, real()); }
  Tensor like_query(ScalarType type) const {
    return empty({in.batch, in.heads, in.tokens, in.width}, type);
  }
  Tensor like_slots(ScalarType type) const {
    return empty({in.batch, in.groups, in.slots, in.width}, type);
  }

  AttentionInputs in;
};

std::tuple<Tensor, Tensor> memory_attention(Tensor query, Tensor key, Tensor value, Tensor gate,
                                            Tensor present, double scale) {
  AttentionCall call(query, key, value, gate, present, scale);
  Tensor mixed = call.like_query(query.scalar_type()), normaliser = call.rows();
  MEMO_RUN(call, memory_attention, output_of(mixed), normaliser.mutable_data_ptr());
  return {mixed, normaliser};
}

std::tuple<Tensor, Tensor> memory_attention_grad_query(Tensor grad, Tensor query, Tensor key,
                                                       Tensor value, Tensor gate, Tensor present,
                                                       double scale, Tensor normaliser) {
  AttentionCall call(query, key, value, gate, present, scale);
  Tensor grad_query = call.like_query(query.scalar_type()), delta = call.rows();
  const Tensor kept = torch::stable::contiguous(normaliser);
  const AttentionGradient given{planes_of(grad), kept.const_data_ptr()};
  MEMO_RUN(call, memory_attention_grad_query, given, output_of(grad_query),
           delta.mutable_data_ptr());
  return {grad_query, delta};
}

std::tuple<Tensor, Tensor> memory_attention_grad_memory(Tensor grad, Tensor query, Tensor key,
                                                        Tensor value, Tensor gate, Tensor present,
                                                        double scale, Tensor normaliser,
                                                        Tensor delta) {
  AttentionCall call(query, key, value, gate, present, scale);
  Tensor grad_key = call.like_slots(key.scalar_type());
  Tensor grad_value = call.like_slots(value.scalar_type());
  const Tensor kept = torch::stable::contiguous(normaliser);
  const Tensor means = torch::stable::contiguous(delta);
  const AttentionGradient given{planes_of(grad), kept.const_data_ptr()};
  MEMO_RUN(call, memory_attention_grad_memory, given, means.const_data_ptr(), output_of(grad_key),
           output_of(grad_value));
  return {grad_key, grad_value};
}

struct DecodeCall : Gates {
  DecodeCall(const Tensor& x, const Tensor& keys, const Tensor& values, const Tensor& gate,
             const Tensor& present, double eps)
      : Gates(x, gate, present) {
    STD_TORCH_CHECK(x.dim() == 3, "memo: x must be [batch, tokens, width]");
    in.x = {x.const_data_ptr(), {0, x.stride(0), x.stride(1), x.stride(2)},
            dtype_of(x.scalar_type())};
    in.keys = planes_of(keys), in.values = planes_of(values);
    in.gate = Gates::gate(), in.present = Gates::present(), in.stream = stream(), in.eps = eps;
    in.batch = x.size(0), in.tokens = x.size(1), in.width = x.size(2);
    in.heads = keys.size(1), in.slots = keys.size(2);
    scores_ = empty({in.batch, in.tokens, in.heads, in.slots}, real());
    in.scores = scores_.mutable_data_ptr();
  }

  DecodeInputs in;

 private:
  Tensor scores_;
};

Tensor memory_attention_decode(Tensor x, Tensor keys, Tensor values, Tensor gate, Tensor present,
                               double eps) {
  DecodeCall call(x, keys, values, gate, present, eps);
  Tensor out = call.empty({call.in.batch, call.in.tokens, call.in.width}, x.scalar_type());
  MEMO_RUN(call, memory_attention_decode, output_of(out));
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(MEMO_NAMESPACE, MEMO_KEY, m) {
  m.impl("memory_attention", TORCH_BOX(&memory_attention));
  m.impl("memory_attention_grad_query", TORCH_BOX(&memory_attention_grad_query));
  m.impl("memory_attention_grad_memory", TORCH_BOX(&memory_attention_grad_memory));
  m.impl("memory_attention_decode", TORCH_BOX(&memory_attention_decode));
}

}  // namespace memo
