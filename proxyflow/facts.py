def describe(obj,*,hashed=True): return (type(obj).__module__,type(obj).__qualname__)
def check_target(o):
    from proxyflow.errors import ProxyTargetError
    if o is None or o is True or o is False: raise ProxyTargetError("x")
