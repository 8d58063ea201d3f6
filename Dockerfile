# Serves the checkpoints of model_store/ as a user without rights, from one volume that holds sessions, keys and the log.
#
#   docker build -t cellstate .
#   docker run --stop-timeout 40 -p 127.0.0.1:8080:8080 -p 127.0.0.1:8082:8082 -v cellstate:/var/lib/cellstate cellstate
#
# Draining may take 20 s and stopping the server 10 more; docker's own patience is 10 s, hence the stop timeout.
# torch is the build that pip finds: on PyPI the one for NVIDIA GPUs, gigabytes of it. For processors only:
#   docker build --build-arg PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu -t cellstate .

# What serves. torch first and alone: it decides which build of everything else fits.
FROM python:3.11-slim-bookworm AS serving
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
# ONNX Runtime's Linux wheels report home, from 1.29 on, as soon as they are imported.
ENV ORT_DISABLE_TELEMETRY=1
RUN python -m venv --without-pip /opt/venv
COPY requirements/serve.txt /opt/cellstate/requirements/
WORKDIR /opt/cellstate
RUN pip --python /opt/venv/bin/python install --no-cache-dir $(grep '^torch==' requirements/serve.txt) \
 && pip --python /opt/venv/bin/python install --no-cache-dir -r requirements/serve.txt
# Headers and test programs serve nobody; ONNX Runtime's part for CUDA, 285 MB, cannot load beside a torch without CUDA's libraries.
RUN cd /opt/venv/lib/python3.11/site-packages \
 && rm -rf torch/include torch/share torch/test && find torch/bin -type f ! -name torch_shm_manager -delete \
 && cuda=$(/opt/venv/bin/python -c 'import torch; print(torch.version.cuda)') \
 && if [ "$cuda" = None ]; then rm onnxruntime/capi/libonnxruntime_providers_cuda.so onnxruntime/capi/libonnxruntime_providers_tensorrt.so; fi

# What builds: checkpoints -> verified archives. Nothing else of this stage is kept.
FROM serving AS archives
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
COPY requirements/export.txt requirements/
RUN pip --python /opt/venv/bin/python install --no-cache-dir -r requirements/export.txt
COPY config config
COPY handlers handlers
COPY export export
COPY cellstate_series.py ./
COPY model_store model_store
RUN mkdir -p /out/model_store \
 && /opt/venv/bin/python -m export build model_store/*/ --store /out/model_store \
 && find model_store -name README.md -exec cp --parents {} /out/ \;

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="cellstate" \
      org.opencontainers.image.description="Serves trained LSTMs together with their hidden state, on TorchServe" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 cellstate \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/cellstate --shell /usr/sbin/nologin cellstate \
 && install -d -o cellstate -g cellstate -m 0700 /var/lib/cellstate
COPY --from=serving /opt/venv /opt/venv
WORKDIR /opt/cellstate
COPY --from=archives /out/model_store model_store
COPY LICENSE ./
COPY config config
COPY handlers handlers
COPY host host
COPY cellstate_series.py ./
# No PYTHONPATH here, ever: it would beat the package inside the archives.
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 ORT_DISABLE_TELEMETRY=1
USER cellstate
VOLUME /var/lib/cellstate
EXPOSE 8080 8082
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=10s --start-period=60s --retries=2 \
  CMD ["python", "-m", "host", "health", "--folder", "/var/lib/cellstate"]
CMD ["python", "-m", "host", "serve", "--address", "0.0.0.0", "--port", "8080", "--metrics-address", "0.0.0.0", "--metrics-port", "8082", \
     "--folder", "/var/lib/cellstate"]
