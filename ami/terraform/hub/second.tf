# The second hub, if there is one: as the first, with an interface, address and key of its
# own. No route of this VPC leads to it, as a table has one for the privnet. Whom it
# serves: ../../DEPLOY.md.

data "aws_subnet" "second" {
  count = var.hubs - 1
  id    = var.second_public_subnet_id
  lifecycle {
    precondition {
      condition     = var.second_public_subnet_id != ""
      error_message = "second_public_subnet_id is needed with two hubs."
    }
    postcondition {
      condition     = self.vpc_id == data.aws_subnet.this.vpc_id
      error_message = "second_public_subnet_id is in another VPC: a hub there is a module of its own."
    }
    postcondition {
      condition     = self.availability_zone != data.aws_subnet.this.availability_zone
      error_message = "second_public_subnet_id is in the first hub's zone: both would fail with it."
    }
  }
}

module "second_documents" {
  count                  = var.hubs - 1
  source                 = "../documents"
  role                   = "hub"
  partition              = data.aws_partition.this.partition
  account                = data.aws_caller_identity.this.account_id
  region                 = data.aws_region.this.id
  privnet                = var.privnet
  service_tag            = var.service_tag
  environment_tag        = var.environment_tag
  fleet_secret_parameter = var.fleet_secret_parameter
  hub_key_parameter      = var.second_hub_key_parameter
  regions                = var.regions
  proof                  = var.proof
  discovery_roles        = var.discovery_roles
  more_config            = var.more_config
}

# Its role is the first's, which may read this key as well.
resource "aws_iam_role_policy" "second_key" {
  count  = var.hubs - 1
  name   = "second-key"
  role   = aws_iam_role.this.id
  policy = module.second_documents[0].policies["key"]
  lifecycle {
    precondition {
      condition     = var.second_hub_key_parameter != var.hub_key_parameter
      error_message = "second_hub_key_parameter is the first hub's key."
    }
  }
}

resource "aws_network_interface" "second" {
  count             = var.hubs - 1
  description       = "privnet hub ${var.name}-2"
  subnet_id         = data.aws_subnet.second[0].id
  security_groups   = [aws_security_group.this.id]
  source_dest_check = false
  tags              = { Name = "privnet-hub-${var.name}-2" }
}

resource "aws_eip" "second" {
  count  = var.hubs - 1
  domain = "vpc"
  tags   = { Name = "privnet-hub-${var.name}-2" }
}

resource "aws_eip_association" "second" {
  count                = var.hubs - 1
  allocation_id        = aws_eip.second[0].id
  network_interface_id = aws_network_interface.second[0].id
}

resource "aws_launch_template" "second" {
  count                  = var.hubs - 1
  name_prefix            = "privnet-hub-${var.name}-2-"
  image_id               = var.image_id
  instance_type          = var.instance_type
  update_default_version = true
  # /etc/privnet/hub.toml, whole.
  user_data = base64encode(module.second_documents[0].config)

  iam_instance_profile {
    arn = aws_iam_instance_profile.this.arn
  }
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }
  network_interfaces {
    device_index         = 0
    network_interface_id = aws_network_interface.second[0].id
  }
  tag_specifications {
    resource_type = "volume"
    tags          = { Name = "privnet-hub-${var.name}-2" }
  }
}

resource "aws_autoscaling_group" "second" {
  count                     = var.hubs - 1
  name_prefix               = "privnet-hub-${var.name}-2-"
  min_size                  = 1
  max_size                  = 1
  desired_capacity          = 1
  availability_zones        = [data.aws_subnet.second[0].availability_zone]
  health_check_type         = "EC2"
  health_check_grace_period = 120

  launch_template {
    id      = aws_launch_template.second[0].id
    version = aws_launch_template.second[0].latest_version
  }
  tag {
    key                 = "Name"
    value               = "privnet-hub-${var.name}-2"
    propagate_at_launch = true
  }
  depends_on = [aws_eip_association.second, aws_iam_role_policy.this, aws_iam_role_policy.second_key]
}

resource "aws_cloudwatch_metric_alarm" "second" {
  count               = var.alarm_topic_arn == "" ? 0 : var.hubs - 1
  alarm_name          = "privnet-hub-${var.name}-2"
  alarm_description   = "The second hub's instance fails its status checks, or there is none"
  namespace           = "AWS/EC2"
  metric_name         = "StatusCheckFailed"
  dimensions          = { AutoScalingGroupName = aws_autoscaling_group.second[0].name }
  statistic           = "Maximum"
  period              = 60
  evaluation_periods  = 3
  threshold           = 1
  comparison_operator = "GreaterThanOrEqualToThreshold"
  treat_missing_data  = "breaching"
  alarm_actions       = [var.alarm_topic_arn]
  ok_actions          = [var.alarm_topic_arn]
}
