import numpy as np
from mrihvae.physics.sampling import sampling_pattern, PATTERNS
from mrihvae.physics.mask_type import describe_sampling
from collections import Counter
for t in PATTERNS:
    for axis in (-1,-2):
        c=Counter()
        for seed in range(6):
            for acc in (4,8):
                for sh in ((96,80),(128,133)):
                    try: m=sampling_pattern(t,sh,acc,0.32/acc if t!='partial_fourier' else 0.1,seed,axis) if t!='partial_fourier' else sampling_pattern(t,sh,1.5,0.1,seed,axis)
                    except Exception as e: c['ERR '+str(e)[:50]]+=1; continue
                    d=describe_sampling(m if axis==-2 or seed%2 else (m[0] if (m==m[0]).all() else m),sh)
                    c[(d.mask_type,d.axis, d.partial_fourier!=(1.0,1.0))]+=1
        print(t,axis,dict(c))
