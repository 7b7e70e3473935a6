def interpolate(input: Tensor,
    size: Optional[int],
    factor: Optional[float],
    mode: str,
    align: Optional[bool]=None,
    recompute: Optional[bool]=None,
    antialias: bool=False) -> Tensor:
  _0 = "{} can't resize what has {} dimensions"
  _1 = uninitialized(Tensor)
  _2 = uninitialized(Optional[List[int]])
  _3 = uninitialized(Optional[List[float]])
  _4 = uninitialized(List[int])
  _5 = uninitialized(bool)
  dim = torch.sub(torch.dim(input), 2)
  if torch.__isnot__(align, None):
    corners = unchecked_cast(bool, align)
  else:
    corners = False
  if torch.__contains__(["nearest", "nearest-exact", "area"], mode):
    _6 = corners
  else:
    _6 = False
  if _6:
    ops.prim.RaiseException("corners are aligned where numbers are mixed", "builtins.ValueError")
    corners0 : bool = _5
  else:
    corners0 = corners
  if torch.__isnot__(size, None):
    size0 = unchecked_cast(int, size)
    sizes0 = annotate(List[int], [])
    for _7 in range(dim):
      _8 = torch.append(sizes0, size0)
    sizes, factors = sizes0, None
  else:
    if torch.__is__(factor, None):
      ops.prim.RaiseException("neither a size nor a factor", "builtins.ValueError")
      sizes1, factors1 = _2, _3
    else:
      factor0 = unchecked_cast(float, factor)
      factors0 = annotate(List[float], [])
      for _9 in range(dim):
        _10 = torch.append(factors0, factor0)
      if torch.__isnot__(recompute, None):
        recompute0 = unchecked_cast(bool, recompute)
      else:
        recompute0 = False
      if recompute0:
        sizes2 = annotate(List[int], [])
        for i in range(dim):
          _11 = torch.size(input, torch.add(i, 2))
          _12 = torch.mul(float(_11), factors0[i])
          _13 = torch.append(sizes2, torch.floor(_12))
        sizes3, factors3 = sizes2, None
      else:
        sizes3, factors3 = None, factors0
      sizes1, factors1 = sizes3, factors3
    sizes, factors = sizes1, factors1
  if torch.eq(mode, "nearest"):
    _14 = __torch__.nearest(input, sizes, factors, )
  else:
    if torch.eq(mode, "nearest-exact"):
      _15 = __torch__.nearest_exact(input, sizes, factors, )
    else:
      if torch.eq(mode, "area"):
        if torch.__isnot__(sizes, None):
          sizes4 = unchecked_cast(List[int], sizes)
        else:
          ops.prim.RaiseException("AssertionError: ")
          sizes4 = _4
        _16 = __torch__.area
        _17 = _16(input, sizes4, )
      else:
        if torch.eq(torch.add(dim, 2), torch.len(torch.size(input))):
          _18 = __torch__.mixed(input, sizes, factors, mode, corners0, antialias, )
        else:
          ops.prim.RaiseException(torch.format(_0, mode, dim), "builtins.NotImplementedError")
          _18 = _1
        _17 = _18
      _15 = _17
    _14 = _15
  return _14
def nearest(input: Tensor,
    sizes: Optional[List[int]],
    factors: Optional[List[float]]) -> Tensor:
  if torch.eq(torch.dim(input), 3):
    _0 = torch.upsample_nearest1d(input, sizes, factors)
  else:
    if torch.eq(torch.dim(input), 4):
      _1 = torch.upsample_nearest2d(input, sizes, factors)
    else:
      _1 = torch.upsample_nearest3d(input, sizes, factors)
    _0 = _1
  return _0
def nearest_exact(input: Tensor,
    sizes: Optional[List[int]],
    factors: Optional[List[float]]) -> Tensor:
  if torch.eq(torch.dim(input), 3):
    _0 = torch._upsample_nearest_exact1d(input, sizes, factors)
  else:
    if torch.eq(torch.dim(input), 4):
      _1 = torch._upsample_nearest_exact2d(input, sizes, factors)
    else:
      _1 = torch._upsample_nearest_exact3d(input, sizes, factors)
    _0 = _1
  return _0
def area(input: Tensor,
    sizes: List[int]) -> Tensor:
  if torch.gt(torch.len(torch.size(input)), torch.len(sizes)):
    pass
  else:
    ops.prim.RaiseException("AssertionError: ")
  if torch.eq(torch.dim(input), 3):
    _0 = torch.adaptive_avg_pool1d(input, sizes)
  else:
    if torch.eq(torch.dim(input), 4):
      _1 = torch.adaptive_avg_pool2d(input, sizes)
    else:
      _1 = torch.adaptive_avg_pool3d(input, sizes)
    _0 = _1
  return _0
def mixed(input: Tensor,
    sizes: Optional[List[int]],
    factors: Optional[List[float]],
    mode: str,
    corners: bool,
    antialias: bool) -> Tensor:
  if torch.eq(mode, "linear"):
    _0 = torch.upsample_linear1d(input, sizes, corners, factors)
  else:
    if torch.eq(mode, "trilinear"):
      _1 = torch.upsample_trilinear3d(input, sizes, corners, factors)
    else:
      _2 = torch.eq(mode, "bilinear")
      if torch.__not__(antialias):
        if _2:
          _3 = torch.upsample_bilinear2d(input, sizes, corners, factors)
        else:
          _3 = torch.upsample_bicubic2d(input, sizes, corners, factors)
        _4 = _3
      else:
        if _2:
          _5 = torch._upsample_bilinear2d_aa(input, sizes, corners, factors)
        else:
          _5 = torch._upsample_bicubic2d_aa(input, sizes, corners, factors)
        _4 = _5
      _1 = _4
    _0 = _1
  return _0
