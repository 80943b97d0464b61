from typing import Any, Generic, TypeVar
T=TypeVar("T")
class Proxy(Generic[T]):
    __slots__=("_f","_t","_facts","__weakref__")
    def __new__(cls, factory=None, facts=None):
        self=object.__new__(cls); self._f=factory; self._facts=facts; return self
    def __getattr__(self,n):
        if n=="_t": raise AttributeError
        return getattr(resolve(self),n)
    def __len__(self): return len(resolve(self))
    def __iter__(self): return iter(resolve(self))
    def __reduce_ex__(self,p): return (Proxy,(self._f,self._facts))
def resolve(p):
    try: return p._t
    except AttributeError:
        p._t=p._f(); return p._t
def extract(p): return resolve(p) if isinstance(p,Proxy) else p
def is_resolved(p):
    try: p._t; return True
    except AttributeError: return False
def get_factory(p): return p._f
def resolve_async(p): raise NotImplementedError
