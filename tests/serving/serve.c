// Serves a SavedModel without Python, by the loader of TensorFlow Serving.
//
//     serve [-r TIMES] MODEL [NAME=DTYPE:FILE... [-- NAME=DTYPE:FILE...]...]
//
// Answers requests, between which is "--". Each feeds the inputs NAME of the
// signature "serving_default". A FILE has a line for each row. Of DTYPE string,
// int32, int64 and float32 a line is one value, and the tensor (rows,); of,
// say, float32x3 it is three with commas between, and the tensor (rows, 3). A
// string may be any bytes but a line feed.
//
// The answer to each is a line "request", then for every output a line for each
// row: its name, and its values with 9 digits. Of a request that fails it is
// "error" and the reason, and the exit status of the program is 1; those after
// it are answered. With -r there are the seconds of so many times in place of
// the outputs, after ten that are not counted.

#include <errno.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <tensorflow/c/c_api.h>
#include <tensorflow/c/tf_tstring.h>

#define MAX_TENSORS 64
#define WARM_UP 10

static int is_serving, num_failed;
static jmp_buf next_request;

// Ends the request, or the program, if there is none yet.
static void fail(const char *what, const char *why) {
  FILE *file = is_serving ? stdout : stderr;
  fprintf(file, "error,%s: ", what);
  for (; *why; why++) putc(*why == '\n' ? ' ' : *why, file);
  putc('\n', file);
  if (!is_serving) exit(1);
  num_failed++;
  longjmp(next_request, 1);
}

static void check(TF_Status *status, const char *what) {
  if (TF_GetCode(status) != TF_OK) fail(what, TF_Message(status));
}

static void *allocate(size_t size) {
  void *memory = calloc(size ? size : 1, 1);
  if (!memory) fail("memory", "there is not enough");
  return memory;
}

// A part of a serialized protocol buffer.
typedef struct {
  const unsigned char *data;
  size_t length;
} Bytes;

static uint64_t read_varint(Bytes *rest) {
  uint64_t value = 0;
  for (int shift = 0; shift < 64 && rest->length; shift += 7) {
    unsigned char byte = *rest->data++;
    rest->length--;
    value |= (uint64_t)(byte & 127) << shift;
    if (byte < 128) return value;
  }
  fail("signature", "it is cut short");
  return 0;
}

// Takes the next field off; `content` is empty unless it is bytes.
static int next_field(Bytes *rest, uint64_t *number, Bytes *content) {
  static const size_t sizes[] = {0, 8, 0, 0, 0, 4};
  if (!rest->length) return 0;
  uint64_t key = read_varint(rest), type = key & 7, length = 0;
  *number = key >> 3;
  *content = (Bytes){NULL, 0};
  if (type == 0) {
    read_varint(rest);
    return 1;
  }
  if (type == 2) length = read_varint(rest);
  else if (type == 1 || type == 5) length = sizes[type];
  else fail("signature", "it has a field of unknown type");
  if (length > rest->length) fail("signature", "it is cut short");
  if (type == 2) *content = (Bytes){rest->data, length};
  rest->data += length;
  rest->length -= length;
  return 1;
}

static Bytes find_field(Bytes message, uint64_t wanted) {
  uint64_t number;
  Bytes content, found = {NULL, 0};
  while (next_field(&message, &number, &content))
    if (number == wanted) found = content;
  return found;
}

static int equals(Bytes bytes, const char *text) {
  return bytes.length == strlen(text) &&
         !memcmp(bytes.data, text, bytes.length);
}

static char *to_text(Bytes bytes) {
  char *text = allocate(bytes.length + 1);
  memcpy(text, bytes.data, bytes.length);
  return text;
}

// The value in a map field, whose entries are messages of key 1 and value 2.
static Bytes find_entry(Bytes message, uint64_t map, const char *key) {
  uint64_t number;
  Bytes entry;
  while (next_field(&message, &number, &entry))
    if (number == map && equals(find_field(entry, 1), key))
      return find_field(entry, 2);
  return (Bytes){NULL, 0};
}

// The tensor of a TensorInfo, which names it as in "node:1".
static TF_Output find_tensor(TF_Graph *graph, Bytes info) {
  char *name = to_text(find_field(info, 1));
  char *colon = strchr(name, ':');
  TF_Output tensor = {NULL, colon ? atoi(colon + 1) : 0};
  if (colon) *colon = 0;
  tensor.oper = TF_GraphOperationByName(graph, name);
  if (!tensor.oper) fail(name, "the graph has no such node");
  free(name);
  return tensor;
}

static TF_DataType find_type(const char *name, const char *dtype) {
  static const char *names[] = {"string", "int32", "int64", "float32"};
  static const TF_DataType types[] = {TF_STRING, TF_INT32, TF_INT64, TF_FLOAT};
  for (int i = 0; i < 4; i++)
    if (!strcmp(dtype, names[i])) return types[i];
  fail(name, "its dtype must be string, int32, int64 or float32");
  return TF_FLOAT;
}

static void set_value(TF_Tensor *tensor, int64_t index, const char *name,
                      char *text, size_t length) {
  void *data = TF_TensorData(tensor);
  char *end = text;
  errno = 0;
  switch (TF_TensorType(tensor)) {
    case TF_STRING:
      TF_StringInit((TF_TString *)data + index);
      TF_StringCopy((TF_TString *)data + index, text, length);
      return;
    case TF_FLOAT:
      ((float *)data)[index] = strtof(text, &end);
      break;
    case TF_INT32:
      ((int32_t *)data)[index] = (int32_t)strtol(text, &end, 10);
      break;
    default:
      ((int64_t *)data)[index] = strtoll(text, &end, 10);
  }
  if (!length || end != text + length || errno) fail(name, "no number");
}

static int64_t count_lines(FILE *file) {
  int64_t lines = 0;
  int last = '\n';
  for (int each; (each = getc(file)) != EOF; last = each) lines += each == '\n';
  rewind(file);
  return lines + (last != '\n');
}

static TF_Tensor *read_tensor(const char *name, char *dtype, const char *path) {
  char *times = strchr(dtype, 'x');
  if (times) *times = 0;
  int64_t columns = times ? atoll(times + 1) : 1;
  TF_DataType type = find_type(name, dtype);
  FILE *file = fopen(path, "rb");
  if (!file) fail(path, strerror(errno));
  int64_t shape[] = {count_lines(file), columns};
  size_t size = type == TF_STRING ? sizeof(TF_TString) : TF_DataTypeSize(type);
  TF_Tensor *tensor = TF_AllocateTensor(type, shape, times ? 2 : 1,
                                        shape[0] * columns * size);
  if (!tensor) fail("memory", "there is not enough");
  char *line = NULL;
  size_t capacity = 0;
  for (int64_t row = 0; row < shape[0]; row++) {
    ssize_t length = getline(&line, &capacity, file);
    if (length < 0) fail(path, "it cannot be read");
    if (length && line[length - 1] == '\n') line[--length] = 0;
    char *value = line, *end = line + length;
    for (int64_t column = 0; column < columns; column++) {
      char *comma = times ? memchr(value, ',', end - value) : NULL;
      if (!comma != (column == columns - 1))
        fail(name, "a line has another number of values");
      char *stop = comma ? comma : end;
      if (comma) *comma = 0;
      set_value(tensor, row * columns + column, name, value, stop - value);
      value = stop + 1;
    }
  }
  free(line);
  fclose(file);
  return tensor;
}

static void print_output(const char *name, TF_Tensor *tensor) {
  if (TF_TensorType(tensor) != TF_FLOAT) fail(name, "it is not float32");
  int64_t rows = TF_NumDims(tensor) ? TF_Dim(tensor, 0) : 1;
  int64_t columns = rows ? TF_TensorElementCount(tensor) / rows : 0;
  const float *values = TF_TensorData(tensor);
  for (int64_t row = 0; row < rows; row++) {
    fputs(name, stdout);
    for (int64_t column = 0; column < columns; column++)
      printf(",%.9g", *values++);
    putchar('\n');
  }
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec + 1e-9 * time.tv_nsec;
}

typedef struct {
  TF_Session *session;
  TF_Graph *graph;
  Bytes signature;
} Model;

static Model load(const char *path) {
  TF_Status *status = TF_NewStatus();
  TF_Buffer *meta_graph = TF_NewBuffer();
  const char *tags[] = {"serve"};
  Model model = {.graph = TF_NewGraph()};
  model.session =
      TF_LoadSessionFromSavedModel(TF_NewSessionOptions(), NULL, path, tags, 1,
                                   model.graph, meta_graph, status);
  check(status, path);
  Bytes meta = {meta_graph->data, meta_graph->length};
  model.signature = find_entry(meta, 5, "serving_default");
  if (!model.signature.length) fail(path, "it has no serving_default");
  return model;
}

static void answer(Model model, char **arguments, int num_inputs, long times) {
  TF_Output inputs[MAX_TENSORS], outputs[MAX_TENSORS];
  TF_Tensor *given[MAX_TENSORS], *results[MAX_TENSORS];
  char *names[MAX_TENSORS];
  int num_outputs = 0;
  if (num_inputs > MAX_TENSORS) fail("request", "too many inputs");
  for (int i = 0; i < num_inputs; i++) {
    char *name = arguments[i], *dtype = strchr(name, '=');
    char *path = dtype ? strchr(dtype, ':') : NULL;
    if (!path) fail(name, "expected NAME=DTYPE:FILE");
    *dtype++ = *path++ = 0;
    Bytes info = find_entry(model.signature, 1, name);
    if (!info.length) fail(name, "the signature has no such input");
    inputs[i] = find_tensor(model.graph, info);
    given[i] = read_tensor(name, dtype, path);
  }
  uint64_t number;
  Bytes entry, rest = model.signature;
  while (next_field(&rest, &number, &entry)) {
    if (number != 2) continue;
    if (num_outputs == MAX_TENSORS) fail("signature", "too many outputs");
    names[num_outputs] = to_text(find_field(entry, 1));
    outputs[num_outputs++] = find_tensor(model.graph, find_field(entry, 2));
  }
  TF_Status *status = TF_NewStatus();
  for (long i = times ? -WARM_UP : 0; i < (times ? times : 1); i++) {
    double begin = now();
    TF_SessionRun(model.session, NULL, inputs, given, num_inputs, outputs,
                  results, num_outputs, NULL, 0, NULL, status);
    double seconds = now() - begin;
    check(status, "TensorFlow");
    if (times && i >= 0) printf("%.9f\n", seconds);
    for (int j = 0; j < num_outputs; j++) {
      if (!times) print_output(names[j], results[j]);
      TF_DeleteTensor(results[j]);
    }
  }
}

int main(int count, char **arguments) {
  char **end = arguments + count;
  static char **request;
  static long times;
  request = arguments + 1;
  if (count > 2 && !strcmp(*request, "-r")) {
    times = atol(request[1]);
    request += 2;
  }
  if (request >= end) fail("usage", "serve [-r TIMES] MODEL [INPUTS...]");
  static Model model;
  model = load(*request++);
  is_serving = 1;
  while (request < end) {
    int num_inputs = 0;
    while (request + num_inputs < end && strcmp(request[num_inputs], "--"))
      num_inputs++;
    char **inputs = request;
    request += num_inputs + 1;
    puts("request");
    if (!setjmp(next_request)) answer(model, inputs, num_inputs, times);
  }
  return num_failed > 0;
}
