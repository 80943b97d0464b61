/* Entering pages into the page table before they are touched.
 *
 * A page of a file that is mapped and in memory costs a fault at its first touch, which for 16 pages
 * at a time takes as long as reading them. Asked for many at once, the kernel needs a quarter of
 * that. Python's mmap.madvise does the same and keeps the interpreter from other threads meanwhile.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#ifdef __linux__
#include <errno.h>
#include <sys/mman.h>

/* Of Linux 5.14; older headers lack it, older kernels answer EINVAL. */
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

/* Whoever maps or unmaps anything waits for one call to end. */
static const size_t AT_ONCE = 16 << 20;

static int populate_range(char *start, size_t nbytes)
{
    for (size_t at = 0; at < nbytes; at += AT_ONCE) {
        size_t length = nbytes - at < AT_ONCE ? nbytes - at : AT_ONCE;
        while (madvise(start + at, length, MADV_POPULATE_READ) != 0)
            if (errno != EAGAIN && errno != EINTR)
                return 0;
    }
    return 1;
}

static PyObject *populate(PyObject *Py_UNUSED(module), PyObject *mapping)
{
    Py_buffer view;
    int done;
    if (PyObject_GetBuffer(mapping, &view, PyBUF_SIMPLE) != 0)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    done = populate_range(view.buf, (size_t)view.len);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&view);
    return PyBool_FromLong(done);
}

static PyMethodDef methods[] = {
    {"populate", populate, METH_O,
     "populate(mapping, /)\n--\n\n"
     "Enter the pages of a mapping into the page table; return whether the system could.\n"
     "Other threads go on meanwhile."},
    {NULL, NULL, 0, NULL},
};

#else

static PyMethodDef methods[] = {{NULL, NULL, 0, NULL}};

#endif

static PyModuleDef_Slot slots[] = {
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#if PY_VERSION_HEX >= 0x030D0000
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "proxyflow.storage._populate",
    .m_doc = "Entering pages into the page table before they are touched; see populating.py.",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__populate(void)
{
    return PyModuleDef_Init(&definition);
}
