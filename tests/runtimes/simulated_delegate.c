/* A SIMULATED accelerator as a real external delegate of TFLite: it takes float ADD nodes, or the nodes of one custom
 * operator (OPERATOR), and adds on the processor. MODE says how it behaves; nothing here is evidence of any device.
 *
 *   gcc -shared -fPIC -DMODE=right simulated_delegate.c -o libarmnnDelegate.so
 *
 * The parts of tensorflow/lite/core/c/common.h that are used, laid out as tflite-runtime 2.14 and ai-edge-litert 2.3
 * have them. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { right = 1, wrong, dies, no_device, takes_none, refuses };
#ifndef MODE
#define MODE right
#endif

typedef struct { int size; int data[]; } IntArray;
typedef struct Delegate Delegate;
typedef struct Context Context;
typedef struct {
  int type; void *data; IntArray *dims; float scale; int32_t zero_point; int allocation_type; size_t bytes;
  const void *allocation; const char *name; Delegate *delegate; int buffer_handle; char is_stale, is_variable;
  int quantization_type; void *quantization; void *sparsity; const IntArray *dims_signature;
} Tensor;
typedef struct { IntArray *inputs, *outputs; } Node;
typedef struct {
  void *(*init)(Context *, const char *, size_t); void (*free)(Context *, void *);
  int (*prepare)(Context *, void *); int (*invoke)(Context *, void *); void *profiling_string;
  int32_t builtin_code; const char *custom_name; int version; void *more[8];
} Registration;
struct Context {
  size_t tensors_size; int (*GetExecutionPlan)(Context *, IntArray **); Tensor *tensors; void *impl; void *ResizeTensor;
  void (*ReportError)(Context *, const char *, ...); void *AddTensors;
  int (*GetNodeAndRegistration)(Context *, int, Node **, Registration **);
  int (*Replace)(Context *, Registration, const IntArray *, Delegate *);
};
struct Delegate { void *data; int (*Prepare)(Context *, Delegate *); void *copies[3]; int64_t flags; void *builder; };
typedef struct { Delegate *delegate; IntArray *nodes, *inputs, *outputs; } Params;
typedef struct { int first, second, sum; } Step;
typedef struct { int count; Step steps[64]; float *inner[4096]; } Kernel;
typedef struct { IntArray *inputs, *outputs, *intermediates, *temporaries; void *user_data; } OwnNode;

static int taken(const Registration *one) {
#ifdef OPERATOR
  return one->builtin_code == 32 && one->custom_name && !strcmp(one->custom_name, OPERATOR);
#else
  return one->builtin_code == 0; /* ADD */
#endif
}

static void *init(Context *context, const char *buffer, size_t length) {
  const Params *params = (const Params *)buffer;
  Kernel *kernel = calloc(1, sizeof *kernel);
  (void)length;
  for (int at = 0; at < params->nodes->size && at < 64; at++) {
    Node *node; Registration *one;
    context->GetNodeAndRegistration(context, params->nodes->data[at], &node, &one);
    kernel->steps[kernel->count++] =
        (Step){node->inputs->data[0], node->inputs->data[node->inputs->size - 1], node->outputs->data[0]};
  }
  return kernel;
}

static void release(Context *context, void *kernel) { (void)context; free(kernel); }
static int prepare(Context *context, void *node) { (void)context; (void)node; return 0; }

static float *values(Context *context, Kernel *kernel, int at) {
  Tensor *tensor = &context->tensors[at];
  if (tensor->data) return tensor->data;
  if (!kernel->inner[at]) kernel->inner[at] = calloc(1, tensor->bytes);
  return kernel->inner[at];
}

static int invoke(Context *context, void *own) {
  Kernel *kernel = ((OwnNode *)own)->user_data;
  if (MODE == dies) *(volatile int *)8 = 1;
  for (int at = 0; at < kernel->count; at++) {
    Step step = kernel->steps[at];
    float *a = values(context, kernel, step.first), *b = values(context, kernel, step.second);
    float *sum = values(context, kernel, step.sum);
    for (size_t i = 0; i < context->tensors[step.sum].bytes / sizeof *sum; i++)
      sum[i] = a[i] + b[i] + (MODE == wrong ? 0.5f : 0.0f);
  }
  return 0;
}

static int take(Context *context, Delegate *delegate) {
  IntArray *plan;
  if (MODE == refuses) { context->ReportError(context, "simulated: the device refuses this graph"); return 1; }
  if (context->GetExecutionPlan(context, &plan)) return 1;
  IntArray *chosen = calloc(1, sizeof(int) * (size_t)(plan->size + 1));
  for (int at = 0; at < plan->size; at++) {
    Node *node; Registration *one;
    if (context->GetNodeAndRegistration(context, plan->data[at], &node, &one)) return 1;
    if (MODE != takes_none && taken(one)) chosen->data[chosen->size++] = plan->data[at];
  }
  Registration kernel = {init, release, prepare, invoke, NULL, 0, "SimulatedDelegate", 1, {NULL}};
  int status = context->Replace(context, kernel, chosen, delegate);
  free(chosen);
  return status;
}

Delegate *tflite_plugin_create_delegate(char **keys, char **texts, size_t count, void (*report)(const char *)) {
  (void)keys; (void)texts; (void)count;
  if (MODE == no_device) { if (report) report("simulated: no device answers"); return NULL; }
  Delegate *made = calloc(1, sizeof *made);
  made->Prepare = take;
#ifdef OPERATOR
  made->flags = 1; /* AllowDynamicTensors: TFLite prepares no operator before, which nothing but the delegate has */
#endif
  return made;
}

void tflite_plugin_destroy_delegate(Delegate *delegate) { free(delegate); }
