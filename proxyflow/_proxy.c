/* The proxy's hot paths: what happens when somebody uses a resolved proxy, and making one.
 *
 * Everything else (what an unresolved proxy answers, resolving, pickling, copying) is in Python, in
 * behaviour.py, and shared with the implementation in pureproxy.py, which this one must not be
 * told from: one test suite runs over both.
 *
 * `Proxy` is the base type. For each set of special methods that targets have, `derive` makes a
 * subtype with just the slots that go with them, so that a proxy claims only what its target can.
 *
 * All types are heap types and all state belongs to the module object, so each interpreter has its
 * own. `target` goes once from NULL to an object and stays until the proxy dies. Whoever reads it
 * holds the proxy, and so needs no reference to the target; reading and setting it are atomic, for
 * interpreters without a global lock.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stddef.h>
#include <string.h>
#include <structmember.h>

typedef struct {
    PyObject_HEAD
    PyObject *target; /* NULL until resolved */
    PyObject *factory;
    PyObject *facts; /* a Facts, or None */
    PyObject *weakrefs;
    vectorcallfunc vectorcall;
} Proxy;

/* Positions in the named tuple Facts. */
enum { FACT_MASK = 2, FACT_LENGTH = 3, FACT_HASH = 9 };

typedef struct {
    PyObject *base;             /* the type Proxy */
    PyObject *facts_type;       /* the class Facts */
    Py_ssize_t n_facts;         /* how many fields it has */
    PyObject *types;            /* subtypes by mask; makes what it lacks */
    PyObject *anything;         /* the mask of a proxy without facts */
    PyObject *resolve;          /* functions of behaviour.py */
    PyObject *attribute_of_unresolved;
    PyObject *class_of_unresolved;
    PyObject *text_of_unresolved;
    PyObject *special_attribute;
    PyObject *called_in_place;
} State;

static PyModuleDef module_def;

static PyObject *proxy_getattro(PyObject *self, PyObject *name);

/* Of our types and of nobody else's; unlike a comparison of types it needs no module state. */
static inline int is_proxy(PyObject *obj)
{
    return Py_TYPE(obj)->tp_getattro == proxy_getattro;
}

static inline State *state_of(PyObject *self)
{
    PyObject *module = PyType_GetModuleByDef(Py_TYPE(self), &module_def);
    return module == NULL ? NULL : (State *)PyModule_GetState(module);
}

/* -- the target ---------------------------------------------------------------------------- */

static inline PyObject *peek(PyObject *self)
{
    return __atomic_load_n(&((Proxy *)self)->target, __ATOMIC_ACQUIRE);
}

static PyObject *resolved(PyObject *self)
{
    State *state = state_of(self);
    if (state == NULL) {
        return NULL;
    }
    PyObject *result = PyObject_CallOneArg(state->resolve, self);
    if (result == NULL) {
        return NULL;
    }
    Py_DECREF(result);
    PyObject *target = peek(self);
    if (target == NULL) {
        PyErr_SetString(PyExc_SystemError, "a proxy was resolved and has no target");
    }
    return target;
}

/* Return the target, borrowed from the proxy; resolves. */
static inline PyObject *target_of(PyObject *self)
{
    PyObject *target = peek(self);
    return target != NULL ? target : resolved(self);
}

/* Return an operand, borrowed: of a proxy its target. C types insist on exact operands. */
static inline PyObject *operand(PyObject *obj)
{
    return is_proxy(obj) ? target_of(obj) : obj;
}

/* -- operators ----------------------------------------------------------------------------- */

/* `items += proxy` of a list, which does not know the proxy's type, arrives here like
 * `items + proxy`. Another list would be silently wrong: who else holds it would not see it grow.
 * Returns 1 if it was in place, 0 if not, -1 on error. */
static int in_place(PyObject *self)
{
    State *state = state_of(self);
    PyObject *answer = state == NULL ? NULL : PyObject_CallNoArgs(state->called_in_place);
    if (answer == NULL) {
        return -1;
    }
    int truth = PyObject_IsTrue(answer);
    Py_DECREF(answer);
    return truth;
}

#define NUMBER_SLOT(type, slot) \
    ((type)->tp_as_number != NULL ? (type)->tp_as_number->slot : NULL)
#define SEQUENCE_SLOT(type, slot) \
    ((type)->tp_as_sequence != NULL ? (type)->tp_as_sequence->slot : NULL)

/* `own` is whether the left operand's type does it in place, if it knows the right one. */
#define BINARY(name, apply, apply_in_place, own)                            \
    static PyObject *proxy_##name(PyObject *left, PyObject *right)          \
    {                                                                       \
        PyObject *a = operand(left);                                        \
        PyObject *b = a == NULL ? NULL : operand(right);                    \
        if (b == NULL) {                                                    \
            return NULL;                                                    \
        }                                                                   \
        if (a == left && (own)) { /* only the right operand is a proxy */   \
            int answer = in_place(right);                                   \
            if (answer != 0) {                                              \
                return answer < 0 ? NULL : apply_in_place(a, b);            \
            }                                                               \
        }                                                                   \
        return apply(a, b);                                                 \
    }                                                                       \
    static PyObject *proxy_inplace_##name(PyObject *self, PyObject *right)  \
    {                                                                       \
        PyObject *a = target_of(self);                                      \
        PyObject *b = a == NULL ? NULL : operand(right);                    \
        return b == NULL ? NULL : kept(self, a, apply_in_place(a, b));      \
    }

/* The name keeps the proxy if the target has changed itself, and else becomes the plain result, as
 * it does for `x = 1; x += 1`. */
static PyObject *kept(PyObject *self, PyObject *target, PyObject *result)
{
    if (result != target) {
        return result;
    }
    Py_DECREF(result);
    return Py_NewRef(self);
}

#define CAN(slot) (NUMBER_SLOT(Py_TYPE(a), slot) != NULL)

BINARY(add, PyNumber_Add, PyNumber_InPlaceAdd,
       CAN(nb_inplace_add) || SEQUENCE_SLOT(Py_TYPE(a), sq_inplace_concat) != NULL)
BINARY(subtract, PyNumber_Subtract, PyNumber_InPlaceSubtract, CAN(nb_inplace_subtract))
BINARY(multiply, PyNumber_Multiply, PyNumber_InPlaceMultiply,
       CAN(nb_inplace_multiply) || SEQUENCE_SLOT(Py_TYPE(a), sq_inplace_repeat) != NULL)
BINARY(matrix_multiply, PyNumber_MatrixMultiply, PyNumber_InPlaceMatrixMultiply,
       CAN(nb_inplace_matrix_multiply))
BINARY(true_divide, PyNumber_TrueDivide, PyNumber_InPlaceTrueDivide, CAN(nb_inplace_true_divide))
BINARY(floor_divide, PyNumber_FloorDivide, PyNumber_InPlaceFloorDivide,
       CAN(nb_inplace_floor_divide))
BINARY(remainder, PyNumber_Remainder, PyNumber_InPlaceRemainder, CAN(nb_inplace_remainder))
BINARY(lshift, PyNumber_Lshift, PyNumber_InPlaceLshift, CAN(nb_inplace_lshift))
BINARY(rshift, PyNumber_Rshift, PyNumber_InPlaceRshift, CAN(nb_inplace_rshift))
BINARY(and, PyNumber_And, PyNumber_InPlaceAnd, CAN(nb_inplace_and))
BINARY(xor, PyNumber_Xor, PyNumber_InPlaceXor, CAN(nb_inplace_xor))
BINARY(or, PyNumber_Or, PyNumber_InPlaceOr, CAN(nb_inplace_or))

static PyObject *proxy_divmod(PyObject *left, PyObject *right)
{
    PyObject *a = operand(left);
    PyObject *b = a == NULL ? NULL : operand(right);
    return b == NULL ? NULL : PyNumber_Divmod(a, b);
}

static PyObject *proxy_power(PyObject *base, PyObject *exponent, PyObject *modulo)
{
    PyObject *a = operand(base);
    PyObject *b = a == NULL ? NULL : operand(exponent);
    PyObject *c = b == NULL ? NULL : operand(modulo);
    if (c == NULL) {
        return NULL;
    }
    if (a == base && b != exponent && CAN(nb_inplace_power)) {
        int answer = in_place(exponent);
        if (answer != 0) {
            return answer < 0 ? NULL : PyNumber_InPlacePower(a, b, c);
        }
    }
    return PyNumber_Power(a, b, c);
}

static PyObject *proxy_inplace_power(PyObject *self, PyObject *exponent, PyObject *modulo)
{
    PyObject *a = target_of(self);
    PyObject *b = a == NULL ? NULL : operand(exponent);
    PyObject *c = b == NULL ? NULL : operand(modulo);
    return c == NULL ? NULL : kept(self, a, PyNumber_InPlacePower(a, b, c));
}

#define UNARY(name, apply)                               \
    static PyObject *proxy_##name(PyObject *self)        \
    {                                                    \
        PyObject *target = target_of(self);              \
        return target == NULL ? NULL : apply(target);    \
    }

UNARY(negative, PyNumber_Negative)
UNARY(positive, PyNumber_Positive)
UNARY(absolute, PyNumber_Absolute)
UNARY(invert, PyNumber_Invert)
UNARY(int, PyNumber_Long)
UNARY(float, PyNumber_Float)
UNARY(index, PyNumber_Index)
UNARY(str, PyObject_Str)
UNARY(iter, PyObject_GetIter)

static int proxy_bool(PyObject *self)
{
    PyObject *target = target_of(self);
    return target == NULL ? -1 : PyObject_IsTrue(target);
}

static PyObject *proxy_richcompare(PyObject *self, PyObject *other, int op)
{
    PyObject *a = target_of(self);
    PyObject *b = a == NULL ? NULL : operand(other);
    return b == NULL ? NULL : PyObject_RichCompare(a, b, op);
}

/* -- containers and iteration -------------------------------------------------------------- */

/* Facts come out of pickles, where anything may be. */
static Py_ssize_t recorded_length(PyObject *length)
{
    Py_ssize_t value = PyLong_AsSsize_t(length);
    if (value < 0 && !PyErr_Occurred()) {
        PyErr_SetString(PyExc_ValueError, "__len__() should return >= 0");
    }
    return value < 0 ? -1 : value;
}

static Py_ssize_t proxy_len(PyObject *self)
{
    PyObject *target = peek(self);
    PyObject *facts = ((Proxy *)self)->facts;
    if (target == NULL && facts != NULL && facts != Py_None) {
        PyObject *length = PyTuple_GET_ITEM(facts, FACT_LENGTH);
        if (length != Py_None) {
            return recorded_length(length);
        }
    }
    target = target_of(self);
    return target == NULL ? -1 : PyObject_Size(target);
}

static PyObject *proxy_getitem(PyObject *self, PyObject *key)
{
    PyObject *target = target_of(self);
    PyObject *k = target == NULL ? NULL : operand(key);
    return k == NULL ? NULL : PyObject_GetItem(target, k);
}

static PyObject *proxy_item(PyObject *self, Py_ssize_t position)
{
    PyObject *target = target_of(self);
    if (target != NULL && !PySequence_Check(target)) {
        /* It has items, but not by number: who iterates would get none, or some of them. */
        return PyErr_Format(PyExc_TypeError, "'%.200s' object is not iterable",
                            Py_TYPE(target)->tp_name);
    }
    PyObject *key = target == NULL ? NULL : PyLong_FromSsize_t(position);
    if (key == NULL) {
        return NULL;
    }
    PyObject *item = PyObject_GetItem(target, key);
    Py_DECREF(key);
    return item;
}

static int proxy_setitem(PyObject *self, PyObject *key, PyObject *value)
{
    PyObject *target = target_of(self);
    PyObject *k = target == NULL ? NULL : operand(key);
    if (k == NULL) {
        return -1;
    }
    return value == NULL ? PyObject_DelItem(target, k) : PyObject_SetItem(target, k, value);
}

static int proxy_contains(PyObject *self, PyObject *item)
{
    PyObject *target = target_of(self);
    PyObject *i = target == NULL ? NULL : operand(item);
    return i == NULL ? -1 : PySequence_Contains(target, i);
}

static PyObject *proxy_next(PyObject *self)
{
    PyObject *target = target_of(self);
    if (target == NULL) {
        return NULL;
    }
    if (!PyIter_Check(target)) {
        PyErr_Format(PyExc_TypeError, "'%.200s' object is not an iterator",
                     Py_TYPE(target)->tp_name);
        return NULL;
    }
    return Py_TYPE(target)->tp_iternext(target);
}

/* -- calls, buffers, and what has no function of its own in the C API ----------------------- */

static PyObject *proxy_call(PyObject *self, PyObject *args, PyObject *kwargs)
{
    PyObject *target = target_of(self);
    return target == NULL ? NULL : PyObject_Call(target, args, kwargs);
}

static PyObject *proxy_vectorcall(PyObject *self, PyObject *const *args, size_t nargsf,
                                  PyObject *kwnames)
{
    PyObject *target = target_of(self);
    return target == NULL ? NULL : PyObject_Vectorcall(target, args, nargsf, kwnames);
}

/* The target's own buffer, which belongs to the target: who releases it releases the target's. */
static int proxy_getbuffer(PyObject *self, Py_buffer *view, int flags)
{
    PyObject *target = target_of(self);
    if (target == NULL) {
        view->obj = NULL;
        return -1;
    }
    return PyObject_GetBuffer(target, view, flags);
}

#define METHOD(name, method)                                                       \
    static PyObject *proxy_##name(PyObject *self)                                  \
    {                                                                              \
        PyObject *target = target_of(self);                                        \
        return target == NULL ? NULL : PyObject_CallMethod(target, method, NULL);  \
    }

METHOD(await, "__await__")
METHOD(aiter, "__aiter__")
METHOD(anext, "__anext__")

static PyObject *proxy_get(PyObject *self, PyObject *obj, PyObject *type)
{
    PyObject *target = target_of(self);
    return target == NULL ? NULL
                          : PyObject_CallMethod(target, "__get__", "OO", obj ? obj : Py_None,
                                                type ? type : Py_None);
}

static int proxy_set(PyObject *self, PyObject *obj, PyObject *value)
{
    PyObject *target = target_of(self);
    if (target == NULL) {
        return -1;
    }
    PyObject *done = value == NULL ? PyObject_CallMethod(target, "__delete__", "O", obj)
                                   : PyObject_CallMethod(target, "__set__", "OO", obj, value);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* -- attributes ---------------------------------------------------------------------------- */

/* Whoever calls the special method itself may pass anything. */
static inline int is_name(PyObject *name)
{
    if (PyUnicode_Check(name)) {
        return 1;
    }
    PyErr_Format(PyExc_TypeError, "attribute name must be string, not '%.200s'",
                 Py_TYPE(name)->tp_name);
    return 0;
}

static inline int is_special(PyObject *name)
{
    return PyUnicode_GET_LENGTH(name) > 4 && PyUnicode_READ_CHAR(name, 0) == '_' &&
           PyUnicode_READ_CHAR(name, 1) == '_';
}

static inline int starts_with(PyObject *name, const char *start)
{
    size_t length = strlen(start);
    return PyUnicode_IS_ASCII(name) && (size_t)PyUnicode_GET_LENGTH(name) >= length &&
           memcmp(PyUnicode_DATA(name), start, length) == 0;
}

static PyObject *class_of(PyObject *self, PyObject *name)
{
    PyObject *target = peek(self);
    PyObject *cls;
    if (target == NULL) {
        State *state = state_of(self);
        cls = state == NULL ? NULL : PyObject_CallOneArg(state->class_of_unresolved, self);
    }
    else {
        cls = PyObject_GetAttr(target, name);
    }
    /* cloudpickle tells functions by isinstance and would pickle the body in place of the proxy. */
    if (cls == (PyObject *)&PyFunction_Type || cls == Py_None) {
        Py_DECREF(cls);
        return Py_NewRef(Py_TYPE(self));
    }
    return cls;
}

/* Special methods are attributes of the proxy's type; the rest of the target's comes after them. */
static PyObject *special_attribute(PyObject *self, PyObject *name)
{
    PyObject *own = PyObject_GenericGetAttr(self, name);
    if (own != NULL || !PyErr_ExceptionMatches(PyExc_AttributeError) ||
        starts_with(name, "__proxy_")) {
        return own;
    }
    PyErr_Clear();
    State *state = state_of(self);
    if (state == NULL) {
        return NULL;
    }
    PyObject *target = peek(self);
    PyObject *function = target == NULL ? state->attribute_of_unresolved : state->special_attribute;
    PyObject *args[] = {target == NULL ? self : target, name};
    return PyObject_Vectorcall(function, args, 2, NULL);
}

static PyObject *proxy_getattro(PyObject *self, PyObject *name)
{
    if (!is_name(name)) {
        return NULL;
    }
    if (is_special(name)) {
        int asks_class = PyUnicode_GET_LENGTH(name) == 9 && starts_with(name, "__class__");
        return asks_class ? class_of(self, name) : special_attribute(self, name);
    }
    PyObject *target = peek(self);
    if (target != NULL) {
        return PyObject_GetAttr(target, name);
    }
    State *state = state_of(self);
    PyObject *args[] = {self, name};
    return state == NULL ? NULL
                         : PyObject_Vectorcall(state->attribute_of_unresolved, args, 2, NULL);
}

static int proxy_setattro(PyObject *self, PyObject *name, PyObject *value)
{
    if (!is_name(name)) {
        return -1;
    }
    if (starts_with(name, "__orig_class__")) {
        /* Set, if possible, by `Proxy[int](factory)`. It is no attribute of the target. */
        PyErr_SetString(PyExc_AttributeError, "a proxy does not remember its type arguments");
        return -1;
    }
    PyObject *target = target_of(self);
    if (target == NULL) {
        return -1;
    }
    return value == NULL ? PyObject_DelAttr(target, name) : PyObject_SetAttr(target, name, value);
}

static PyObject *proxy_repr(PyObject *self)
{
    PyObject *target = peek(self);
    if (target != NULL) {
        return PyObject_Repr(target);
    }
    State *state = state_of(self);
    return state == NULL ? NULL : PyObject_CallOneArg(state->text_of_unresolved, self);
}

/* The recorded hash stays when the proxy is resolved: a key in a dict must not change it. */
static Py_hash_t proxy_hash(PyObject *self)
{
    PyObject *facts = ((Proxy *)self)->facts;
    if (facts != NULL && facts != Py_None && PyTuple_GET_ITEM(facts, FACT_HASH) != Py_None) {
        PyObject *trusted = PyObject_GetAttrString(facts, "trusted_hash");
        if (trusted == NULL) {
            return -1;
        }
        Py_hash_t hash = trusted == Py_None ? -1 : PyLong_AsSsize_t(trusted);
        int known = trusted != Py_None;
        Py_DECREF(trusted);
        if (known && hash == -1 && !PyErr_Occurred()) {
            return -2; /* -1 is no hash, and Python too takes -2 for it */
        }
        if (known) {
            return hash;
        }
    }
    PyObject *target = target_of(self);
    return target == NULL ? -1 : PyObject_Hash(target);
}

/* -- what behaviour.py uses ---------------------------------------------------------------- */

static PyObject *get_target(PyObject *self, void *Py_UNUSED(closure))
{
    return Py_XNewRef(target_of(self));
}

static PyObject *get_resolved(PyObject *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(peek(self) != NULL);
}

static PyObject *settle(PyObject *self, PyObject *target)
{
    if (is_proxy(target)) { /* what forwards to itself never ends */
        PyErr_SetString(PyExc_TypeError, "the target of a proxy cannot be a proxy");
        return NULL;
    }
    PyObject *expected = NULL;
    PyObject *held = Py_NewRef(target);
    if (!__atomic_compare_exchange_n(&((Proxy *)self)->target, &expected, held, 0,
                                     __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
        Py_DECREF(held); /* it has one already, which somebody may be using */
    }
    Py_RETURN_NONE;
}

static PyGetSetDef proxy_getset[] = {
    {"__proxy_target__", get_target, NULL, "The target; resolves.", NULL},
    {"__proxy_resolved__", get_resolved, NULL, "Whether the target is here.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef proxy_members[] = {
    {"__proxy_factory__", T_OBJECT_EX, offsetof(Proxy, factory), READONLY, NULL},
    {"__proxy_facts__", T_OBJECT_EX, offsetof(Proxy, facts), READONLY, NULL},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(Proxy, weakrefs), READONLY, NULL},
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(Proxy, vectorcall), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef proxy_methods[] = {
    {"__proxy_settle__", settle, METH_O, "Set the target, once."},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, NULL},
    {NULL, NULL, 0, NULL},
};

/* -- life ---------------------------------------------------------------------------------- */

static int proxy_traverse(PyObject *self, visitproc visit, void *arg)
{
    Proxy *proxy = (Proxy *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(proxy->target);
    Py_VISIT(proxy->factory);
    Py_VISIT(proxy->facts);
    return 0;
}

static int proxy_clear(PyObject *self)
{
    Proxy *proxy = (Proxy *)self;
    Py_CLEAR(proxy->target);
    Py_CLEAR(proxy->factory);
    Py_CLEAR(proxy->facts);
    return 0;
}

static void proxy_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_TRASHCAN_BEGIN(self, proxy_dealloc)
    if (((Proxy *)self)->weakrefs != NULL) {
        PyObject_ClearWeakRefs(self);
    }
    (void)proxy_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
    Py_TRASHCAN_END
}

/* Return a new proxy of the type that goes with the facts, which are a Facts or None. */
static PyObject *make(State *state, PyObject *factory, PyObject *facts)
{
    PyObject *mask = facts == Py_None ? state->anything : PyTuple_GET_ITEM(facts, FACT_MASK);
    PyObject *type = PyObject_GetItem(state->types, mask);
    if (type == NULL) {
        return NULL;
    }
    Proxy *self = (Proxy *)((PyTypeObject *)type)->tp_alloc((PyTypeObject *)type, 0);
    Py_DECREF(type);
    if (self == NULL) {
        return NULL;
    }
    self->factory = Py_NewRef(factory);
    self->facts = Py_NewRef(facts);
    self->vectorcall = proxy_vectorcall;
    return (PyObject *)self;
}

static PyObject *wrong_number(PyObject *facts)
{
    return PyErr_Format(PyExc_ValueError, "%zd facts about the target of a proxy",
                        PyTuple_GET_SIZE(facts));
}

static PyObject *checked_make(State *state, PyObject *factory, PyObject *facts)
{
    if (is_proxy(factory)) {
        return Py_NewRef(factory);
    }
    if (!PyCallable_Check(factory)) {
        return PyErr_Format(PyExc_TypeError, "a proxy's factory must be callable, not %R", factory);
    }
    if (facts != Py_None && !Py_IS_TYPE(facts, (PyTypeObject *)state->facts_type)) {
        return PyErr_Format(PyExc_TypeError, "facts must be a Facts or None, not %R", facts);
    }
    if (facts != Py_None && PyTuple_GET_SIZE(facts) != state->n_facts) {
        return wrong_number(facts); /* made by `tuple.__new__` */
    }
    return make(state, factory, facts);
}

static PyObject *proxy_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"factory", "facts", NULL};
    PyObject *factory, *facts = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|O:Proxy", names, &factory, &facts)) {
        return NULL;
    }
    PyObject *module = PyType_GetModuleByDef(type, &module_def);
    return module == NULL ? NULL : checked_make(PyModule_GetState(module), factory, facts);
}

/* `Proxy(factory, facts)`, without the tuple of arguments that goes through `__new__`. */
static PyObject *type_vectorcall(PyObject *type, PyObject *const *args, size_t nargsf,
                                 PyObject *kwnames)
{
    Py_ssize_t count = PyVectorcall_NARGS(nargsf);
    if (kwnames != NULL || count < 1 || count > 2) {
        PyObject *tuple = PyTuple_New(count), *dict = NULL, *self = NULL;
        for (Py_ssize_t i = 0; tuple != NULL && i < count; i++) {
            PyTuple_SET_ITEM(tuple, i, Py_NewRef(args[i]));
        }
        int failed = tuple == NULL || (kwnames != NULL && (dict = PyDict_New()) == NULL);
        for (Py_ssize_t i = 0; !failed && kwnames != NULL && i < PyTuple_GET_SIZE(kwnames); i++) {
            failed = PyDict_SetItem(dict, PyTuple_GET_ITEM(kwnames, i), args[count + i]) < 0;
        }
        if (!failed) {
            self = proxy_new((PyTypeObject *)type, tuple, dict);
        }
        Py_XDECREF(tuple);
        Py_XDECREF(dict);
        return self;
    }
    State *state = PyType_GetModuleState((PyTypeObject *)type);
    return state == NULL ? NULL : checked_make(state, args[0], count == 2 ? args[1] : Py_None);
}

static PyType_Slot base_slots[] = {
    {Py_tp_new, proxy_new},
    {Py_tp_dealloc, proxy_dealloc},
    {Py_tp_traverse, proxy_traverse},
    {Py_tp_clear, proxy_clear},
    {Py_tp_getattro, proxy_getattro},
    {Py_tp_setattro, proxy_setattro},
    {Py_tp_repr, proxy_repr},
    {Py_tp_str, proxy_str},
    {Py_tp_hash, proxy_hash},
    {Py_tp_richcompare, proxy_richcompare},
    {Py_tp_getset, proxy_getset},
    {Py_tp_members, proxy_members},
    {Py_tp_methods, proxy_methods},
    {0, NULL},
};

#define PROXY_FLAGS (Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC)

static PyType_Spec base_spec = {
    .name = "proxyflow.proxy.Proxy",
    .basicsize = sizeof(Proxy),
    .flags = PROXY_FLAGS,
    .slots = base_slots,
};

/* -- subtypes ------------------------------------------------------------------------------ */

/* Which slots a special method of the target's class asks for. */
static const struct {
    const char *method;
    int slot;
    void *function;
} rules[] = {
#define OPERATOR(method, slot, name)                      \
    {"__" method "__", Py_nb_##slot, proxy_##name},       \
    {"__r" method "__", Py_nb_##slot, proxy_##name},      \
    {"__i" method "__", Py_nb_inplace_##slot, proxy_inplace_##name}
    OPERATOR("add", add, add),
    OPERATOR("sub", subtract, subtract),
    OPERATOR("mul", multiply, multiply),
    OPERATOR("matmul", matrix_multiply, matrix_multiply),
    OPERATOR("truediv", true_divide, true_divide),
    OPERATOR("floordiv", floor_divide, floor_divide),
    OPERATOR("mod", remainder, remainder),
    OPERATOR("pow", power, power),
    OPERATOR("lshift", lshift, lshift),
    OPERATOR("rshift", rshift, rshift),
    OPERATOR("and", and, and),
    OPERATOR("xor", xor, xor),
    OPERATOR("or", or, or),
    {"__divmod__", Py_nb_divmod, proxy_divmod},
    {"__rdivmod__", Py_nb_divmod, proxy_divmod},
    {"__neg__", Py_nb_negative, proxy_negative},
    {"__pos__", Py_nb_positive, proxy_positive},
    {"__abs__", Py_nb_absolute, proxy_absolute},
    {"__invert__", Py_nb_invert, proxy_invert},
    {"__int__", Py_nb_int, proxy_int},
    {"__float__", Py_nb_float, proxy_float},
    {"__index__", Py_nb_index, proxy_index},
    {"__bool__", Py_nb_bool, proxy_bool},
    {"__len__", Py_sq_length, proxy_len},
    {"__len__", Py_mp_length, proxy_len},
    {"__getitem__", Py_sq_item, proxy_item},
    {"__getitem__", Py_mp_subscript, proxy_getitem},
    {"__setitem__", Py_mp_ass_subscript, proxy_setitem},
    {"__delitem__", Py_mp_ass_subscript, proxy_setitem},
    {"__contains__", Py_sq_contains, proxy_contains},
    {"__iter__", Py_tp_iter, proxy_iter},
    {"__next__", Py_tp_iternext, proxy_next},
    {"__call__", Py_tp_call, proxy_call},
    {"__await__", Py_am_await, proxy_await},
    {"__aiter__", Py_am_aiter, proxy_aiter},
    {"__anext__", Py_am_anext, proxy_anext},
    {"__get__", Py_tp_descr_get, proxy_get},
    {"__set__", Py_tp_descr_set, proxy_set},
    {"__delete__", Py_tp_descr_set, proxy_set},
    {"__buffer__", Py_bf_getbuffer, proxy_getbuffer},
};

#define N_RULES (sizeof(rules) / sizeof(rules[0]))
enum { N_FIXED = 4, N_SLOT_IDS = 128 };

/* Fill in the slots for some special methods; returns how many, -1 on error. */
static int fill_slots(PyType_Slot *slots, PyObject *methods)
{
    char seen[N_SLOT_IDS] = {0};
    int count = 0;
    for (size_t i = 0; i < N_RULES; i++) {
        PyObject *name = PyUnicode_FromString(rules[i].method);
        int wanted = name == NULL ? -1 : PySequence_Contains(methods, name);
        Py_XDECREF(name);
        if (wanted < 0) {
            return -1;
        }
        if (wanted && !seen[rules[i].slot]) {
            seen[rules[i].slot] = 1;
            slots[count++] = (PyType_Slot){rules[i].slot, rules[i].function};
        }
    }
    return count;
}

PyDoc_STRVAR(derive_doc,
             "derive($module, methods, flags, /)\n--\n\n"
             "Return a new subtype of Proxy with the slots of some special methods.\n\n"
             "Without `__hash__` among them its objects cannot be hashed. The flags are those of\n"
             "the type.");

static PyObject *derive(PyObject *module, PyObject *args)
{
    PyObject *methods;
    unsigned int flags;
    if (!PyArg_ParseTuple(args, "OI:derive", &methods, &flags)) {
        return NULL;
    }
    PyType_Slot slots[N_FIXED + N_RULES + 2] = {
        {Py_tp_dealloc, proxy_dealloc},
        {Py_tp_traverse, proxy_traverse},
        {Py_tp_clear, proxy_clear},
        {Py_tp_richcompare, proxy_richcompare}, /* inherited only together with a hash */
    };
    int count = fill_slots(slots + N_FIXED, methods);
    PyObject *hash = PyUnicode_FromString("__hash__");
    PyObject *call = PyUnicode_FromString("__call__");
    int hashable = hash == NULL ? -1 : PySequence_Contains(methods, hash);
    int callable = call == NULL ? -1 : PySequence_Contains(methods, call);
    Py_XDECREF(hash);
    Py_XDECREF(call);
    if (count < 0 || hashable < 0 || callable < 0) {
        return NULL;
    }
    slots[N_FIXED + count] = (PyType_Slot){
        Py_tp_hash, hashable ? (void *)proxy_hash : (void *)PyObject_HashNotImplemented};
    slots[N_FIXED + count + 1] = (PyType_Slot){0, NULL};
    PyType_Spec spec = {
        .name = "proxyflow.proxy.Proxy",
        .basicsize = sizeof(Proxy),
        .flags = PROXY_FLAGS | flags | (callable ? Py_TPFLAGS_HAVE_VECTORCALL : 0),
        .slots = slots,
    };
    State *state = PyModule_GetState(module);
    return PyType_FromModuleAndSpec(module, &spec, state->base);
}

/* -- the module ---------------------------------------------------------------------------- */

PyDoc_STRVAR(rebuild_doc,
             "rebuild($module, factory, facts, /)\n--\n\n"
             "Return a proxy as its pickle describes it: facts are a tuple, maybe a short one.");

static PyObject *rebuild(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2 || !PyTuple_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "rebuild() takes a factory and a tuple");
        return NULL;
    }
    State *state = PyModule_GetState(module);
    PyObject *known = args[1];
    Py_ssize_t count = PyTuple_GET_SIZE(known);
    if (count == 0) {
        return make(state, args[0], Py_None);
    }
    if (count <= FACT_MASK || count > state->n_facts) {
        return wrong_number(known);
    }
    /* What calling Facts does, less the time it takes. */
    PyTypeObject *type = (PyTypeObject *)state->facts_type;
    PyObject *facts = type->tp_alloc(type, state->n_facts);
    if (facts == NULL) {
        return NULL;
    }
    for (Py_ssize_t i = 0; i < state->n_facts; i++) {
        PyTuple_SET_ITEM(facts, i, Py_NewRef(i < count ? PyTuple_GET_ITEM(known, i) : Py_None));
    }
    PyObject *self = make(state, args[0], facts);
    Py_DECREF(facts);
    return self;
}

PyDoc_STRVAR(install_doc,
             "install($module, /, **parts)\n--\n\n"
             "Connect the type Proxy with its Python parts: `facts_type`, `types`, `anything` and\n"
             "the functions of behaviour.py.");

static PyObject *install(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"facts_type", "types", "anything", "resolve",
                            "attribute_of_unresolved", "class_of_unresolved",
                            "text_of_unresolved", "special_attribute", "called_in_place", NULL};
    PyObject *parts[9];
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "$OOOOOOOOO:install", names, &parts[0],
                                     &parts[1], &parts[2], &parts[3], &parts[4], &parts[5],
                                     &parts[6], &parts[7], &parts[8])) {
        return NULL;
    }
    PyObject *fields = PyObject_GetAttrString(parts[0], "_fields");
    Py_ssize_t n_facts = fields == NULL ? -1 : PyObject_Size(fields);
    Py_XDECREF(fields);
    if (n_facts < 0) {
        return NULL;
    }
    State *state = PyModule_GetState(module);
    state->n_facts = n_facts;
    PyObject **places[] = {&state->facts_type, &state->types, &state->anything, &state->resolve,
                           &state->attribute_of_unresolved, &state->class_of_unresolved,
                           &state->text_of_unresolved, &state->special_attribute,
                           &state->called_in_place};
    for (int i = 0; i < 9; i++) {
        Py_XSETREF(*places[i], Py_NewRef(parts[i]));
    }
    Py_RETURN_NONE;
}

static PyMethodDef module_methods[] = {
    {"derive", derive, METH_VARARGS, derive_doc},
    {"install", (PyCFunction)(void (*)(void))install, METH_VARARGS | METH_KEYWORDS, install_doc},
    {"rebuild", (PyCFunction)(void (*)(void))rebuild, METH_FASTCALL, rebuild_doc},
    {NULL, NULL, 0, NULL},
};

static int module_exec(PyObject *module)
{
    State *state = PyModule_GetState(module);
    PyObject *behaviour = PyImport_ImportModule("proxyflow.behaviour");
    PyObject *parent = behaviour == NULL ? NULL : PyObject_GetAttrString(behaviour, "Behaviour");
    Py_XDECREF(behaviour);
    if (parent == NULL) {
        return -1;
    }
    state->base = PyType_FromModuleAndSpec(module, &base_spec, parent);
    Py_DECREF(parent);
    if (state->base == NULL) {
        return -1;
    }
    ((PyTypeObject *)state->base)->tp_vectorcall = type_vectorcall;
    PyObject *methods = PyTuple_New(N_RULES);
    for (size_t i = 0; methods != NULL && i < N_RULES; i++) {
        PyObject *name = PyUnicode_FromString(rules[i].method);
        if (name == NULL) {
            Py_CLEAR(methods);
        }
        else {
            PyTuple_SET_ITEM(methods, i, name);
        }
    }
    int failed = PyModule_AddObjectRef(module, "Proxy", state->base) < 0 ||
                 PyModule_AddObjectRef(module, "METHODS", methods) < 0;
    Py_XDECREF(methods);
    return failed ? -1 : 0;
}

static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
    State *state = PyModule_GetState(module);
    Py_VISIT(state->base);
    Py_VISIT(state->facts_type);
    Py_VISIT(state->types);
    Py_VISIT(state->anything);
    Py_VISIT(state->resolve);
    Py_VISIT(state->attribute_of_unresolved);
    Py_VISIT(state->class_of_unresolved);
    Py_VISIT(state->text_of_unresolved);
    Py_VISIT(state->special_attribute);
    Py_VISIT(state->called_in_place);
    return 0;
}

static int module_clear(PyObject *module)
{
    State *state = PyModule_GetState(module);
    Py_CLEAR(state->base);
    Py_CLEAR(state->facts_type);
    Py_CLEAR(state->types);
    Py_CLEAR(state->anything);
    Py_CLEAR(state->resolve);
    Py_CLEAR(state->attribute_of_unresolved);
    Py_CLEAR(state->class_of_unresolved);
    Py_CLEAR(state->text_of_unresolved);
    Py_CLEAR(state->special_attribute);
    Py_CLEAR(state->called_in_place);
    return 0;
}

static void module_free(void *module)
{
    (void)module_clear((PyObject *)module);
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#if PY_VERSION_HEX >= 0x030D0000
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT,
    .m_name = "proxyflow._proxy",
    .m_doc = "The proxy in C; see behaviour.py and pureproxy.py.",
    .m_size = sizeof(State),
    .m_methods = module_methods,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC PyInit__proxy(void)
{
    return PyModuleDef_Init(&module_def);
}
